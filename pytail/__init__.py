"""pytail, an incremental caching proxy for the Python package index.

This module imports nothing, so that gevent can patch the standard library before anything else of
pytail is loaded.
"""

__version__ = "0.2.0"
