"""An HTTP/1.1 server on gevent: connections, request heads, responses."""
