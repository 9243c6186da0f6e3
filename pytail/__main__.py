"""``python -m pytail`` and the command ``pytail``: patch the standard library, then start."""

# Before the first import of a module that makes a socket, a lock or an SSL context.
from gevent import monkey

monkey.patch_all()

from pytail.commands.main import main  # noqa: E402

if __name__ == "__main__":
    main()
