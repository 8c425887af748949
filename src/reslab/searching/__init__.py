"""Searching: trainings of one recipe with other fields, judged on validation, the best kept."""
