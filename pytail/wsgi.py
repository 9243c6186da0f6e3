"""The WSGI ``application`` for ``gunicorn -k gevent pytail.wsgi``.

The settings come from environment variables and the file. The worker imports this module, and the
import makes the application. gevent must have patched the standard library before: in another kind
of worker each wait would block all clients.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

from gevent import monkey

#: Exit code of a worker that gunicorn does not start again.
_CANNOT_BOOT = 3


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"pytail: {message}\n")
    raise SystemExit(_CANNOT_BOOT)


if not monkey.is_module_patched("socket"):
    _refuse(
        "pytail.wsgi needs a worker that gevent has patched: start gunicorn with"
        " 'gunicorn -k gevent pytail.wsgi', without --preload"
    )

from pytail.config.load import load  # noqa: E402
from pytail.errors import SettingError  # noqa: E402
from pytail.telemetry import logs, multiprocess  # noqa: E402
from pytail.urls import masked  # noqa: E402

try:
    _configuration = load(os.environ)
    _settings = _configuration.settings
    logs.configure(_settings.log_level, _settings.log_format)
    # Before the first import of prometheus_client, which reads the environment then.
    multiprocess.share(_settings.cache_dir)
    from pytail.web.app import create_app

    application = create_app(_settings)
except SettingError as error:
    _refuse(masked(str(error)))
log = logging.getLogger("pytail.wsgi")
for _warning in _configuration.warnings:
    log.warning("%s", _warning)
log.info(
    "worker started: cache directory %s, upstream %s",
    _settings.cache_dir,
    masked(_settings.upstream_base_url),
)
