"""Learning: recipes, optimisers, the one training loop, checkpoints, the run folder."""
