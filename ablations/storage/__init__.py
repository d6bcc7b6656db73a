"""Storage in a results folder that survives crashes: files, locks, records, the plan."""
