"""Decides what to serve: fresh or not, stored or not, and from where."""
