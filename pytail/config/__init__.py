"""Settings: their parsers, defaults, and sources."""
