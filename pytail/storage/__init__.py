"""Keeps: the catalog of what is known, and the files on disk."""
