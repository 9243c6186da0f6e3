"""``application``, for ``gunicorn -k gevent pytail.wsgi``, with settings from the environment and a file.

It is made when this module is loaded, in the worker, and only where gevent has patched the standard
library before: under another kind of worker each wait would stop all clients.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

from gevent import monkey

#: The exit code by which gunicorn knows not to start the worker again.
_CANNOT_BOOT = 3


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"pytail: {message}\n")
    raise SystemExit(_CANNOT_BOOT)


if not monkey.is_module_patched("socket"):
    _refuse(
        "pytail.wsgi needs a worker that gevent has patched: start it with"
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
    # Before anything imports prometheus_client, which decides then how to count.
    multiprocess.share(_settings.cache_dir)
    from pytail.web.app import create_app

    application = create_app(_settings)
except SettingError as error:
    _refuse(str(error))
log = logging.getLogger("pytail.wsgi")
for _warning in _configuration.warnings:
    log.warning("%s", _warning)
log.info("cache in %s, upstream %s", _settings.cache_dir, masked(_settings.upstream_base_url))
