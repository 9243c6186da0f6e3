"""HTTP in and out: the WSGI application and its resources."""
