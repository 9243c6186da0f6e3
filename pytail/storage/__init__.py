"""Storage: the catalog (a SQLite database of projects and files) and the store (files on disk)."""
