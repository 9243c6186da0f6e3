"""pytail under gunicorn: ``gunicorn -c gunicorn.conf.py``.

pytail takes its own settings from the ``PYTAIL_*`` variables and from the file that
``PYTAIL_CONFIG`` names; see docs/configuration.md.
"""

import os

from pytail.config.load import load
from pytail.errors import SettingError
from pytail.gunicorn import Worker

wsgi_app = "pytail.wsgi"

#: pytail waits for upstream and for slow clients in greenlets. The class "gevent" works too, but takes
#: more processor time for each request and file, and has fewer limits. Any other class is refused.
worker_class = "pytail.gunicorn.Worker"

#: All workers share one cache directory and serve the same pages and files. Use one worker per core.
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))

#: The maximum number of connections of each worker. Idle and slow ones are closed to make room;
#: further ones wait in the backlog.
worker_connections = 1000

try:
    settings = load(os.environ).settings
except SettingError as error:
    if Worker.kept is None:
        raise SystemExit(f"pytail: {error}") from None
    # SIGHUP reloads this file. With an error in pytail's file, the settings in force stay.
    settings = Worker.kept.settings
bind = str(settings.bind)
backlog = 1024

#: Each worker opens the cache itself, because a database connection must not cross a fork.
preload_app = False

#: Seconds after which gunicorn kills a worker whose event loop does not respond. Sending a large file
#: does not block the event loop.
timeout = 120

#: Seconds for responses in progress to end when gunicorn stops, reloads (SIGHUP) or replaces a worker
#: after max_requests.
graceful_timeout = max(1, round(settings.grace_secs))

#: Seconds before an idle connection is closed, for the class "gevent". pytail.gunicorn.Worker always
#: has 75 seconds.
keepalive = 75

#: pytail needs no control socket: signals and files are enough to operate it.
control_socket_disable = True
