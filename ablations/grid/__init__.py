"""A TOML file becomes jobs: studies, levels, variants, what tuning chooses for them."""
