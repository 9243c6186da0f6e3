"""pytail, a pull-through cache for Python package indexes.

This module imports nothing, so that gevent can patch the standard library before other modules of
pytail are loaded.
"""

__version__ = "0.2.0"
