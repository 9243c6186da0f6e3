"""What the tests share: a patched standard library, an upstream, a running pytail."""

# Before pytest's own plugins of the project load anything that holds a socket.
from gevent import monkey

monkey.patch_all()
