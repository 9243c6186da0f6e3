"""Asks the upstream index: connections, limits, pages and files."""
