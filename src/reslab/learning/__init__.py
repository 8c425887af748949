"""Learning: optimisers, schedules, the parts of a step, precision, and the one training loop."""
