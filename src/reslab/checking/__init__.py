"""The doctor: what is wrong with a set of pictures."""
