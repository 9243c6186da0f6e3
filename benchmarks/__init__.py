"""Benchmarks of pytail and its peers; see README.md."""
