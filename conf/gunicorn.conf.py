"""pytail under gunicorn: ``gunicorn -c gunicorn.conf.py``.

pytail takes its own settings from the ``PYTAIL_*`` variables and from the file that
``PYTAIL_CONFIG`` names; see docs/configuration.md.
"""

import os

from pytail.config.load import load
from pytail.errors import SettingError

wsgi_app = "pytail.wsgi"

#: pytail waits for upstream and for slow clients in greenlets. "gevent" does as well, but takes more
#: processor time for each request and file, and knows fewer limits; any other class is refused.
worker_class = "pytail.gunicorn.Worker"

#: Workers share one cache directory: what one has fetched, all serve. One for each core will do.
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))

#: Connections at the same time, of each worker. Others wait in the backlog; those that only wait for
#: a next request make room.
worker_connections = 1000

try:
    settings = load(os.environ).settings
except SettingError as error:
    raise SystemExit(f"pytail: {error}") from None
bind = str(settings.bind)
backlog = 1024

#: Each worker opens the cache itself; a connection to it must not be shared by a fork.
preload_app = False

#: A gevent worker that copies a large file is not hung: this is for one that really is.
timeout = 120

#: Downloads under way get this long to end when gunicorn stops or reloads.
graceful_timeout = max(1, round(settings.grace_secs))

#: Index clients keep their connections open between requests; for pytail's own class it is always so.
keepalive = 75

#: pytail is operated by signals and files alone.
control_socket_disable = True
