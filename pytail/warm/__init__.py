"""Decides which pages and files to fetch ahead of any request, and fetches them."""
