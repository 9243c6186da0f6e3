"""Tells operators what happens: access records, logs and metrics."""
