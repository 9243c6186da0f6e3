"""Requests pages and files of the upstream index, within limits."""
