"""Measures pytail beside its peers; see README.md."""
