"""Copies of pictures: the same bytes, or the same picture in another shape."""
