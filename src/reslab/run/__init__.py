"""A run: its folder, checkpoints, lock and signals, and how it is shown while it works."""
