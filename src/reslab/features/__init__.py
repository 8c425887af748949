"""Features: what is computed once. Frozen parts, their outputs and their store, solved heads."""
