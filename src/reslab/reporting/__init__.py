"""Reporting: what a run came to, as one page that opens anywhere."""
