"""From a TOML file to jobs: studies, levels, variants, and the values that tuning chooses for them."""
