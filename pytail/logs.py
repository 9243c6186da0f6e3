"""How the log is written."""

from __future__ import annotations

import logging

from pytail.settings import Settings


def configure(settings: Settings) -> None:
    """Log to standard error what is at or above ``--log-level``."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("pytail").setLevel(settings.log_level.upper())
