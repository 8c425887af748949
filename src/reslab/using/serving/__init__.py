"""A model behind HTTP: a bounded queue, one network, an interface for programs and one page."""
