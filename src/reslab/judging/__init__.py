"""Judging: metrics as pure functions of logits and labels, and the pictures of a run."""
