"""Recipes: what a run is asked to be. Typed fields, their names and texts, and a TOML file each."""
