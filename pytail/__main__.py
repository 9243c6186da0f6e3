"""``python -m pytail`` and the command ``pytail``: patch first, then start."""

# Before anything else of the standard library holds a socket, a lock or an SSL context.
from gevent import monkey

monkey.patch_all()

from pytail.commands.main import main  # noqa: E402

if __name__ == "__main__":
    main()
