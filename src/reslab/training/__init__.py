"""Training: the story of a run, from data and a recipe to a finished folder."""
