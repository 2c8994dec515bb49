"""Studies: a grid of runs from one TOML file, to one table."""
