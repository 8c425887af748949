"""Training by the clock: a plan of stages, each an ordinary training from the best state before."""
