"""HTTP/1.1 on a gevent server: connections, request heads, response bodies."""
