"""Stored files under a key that their page gave earlier.

A page may give a stronger digest than before, and up to schema 4 of the catalog a file without a sha256
was stored by its whole URL. Such a file is moved to its present key, without a request to upstream.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from pytail.errors import DigestMismatch, DownloadInterrupted
from pytail.model import File, former_directories
from pytail.runtime.threads import off_loop
from pytail.storage.digests import FileVerifier
from pytail.storage.store import Store

log = logging.getLogger("pytail.cache")


def is_stored(store: Store, file: File) -> bool:
    """Return whether `file` is stored, under its key or under a former one."""
    return store.has(file) or any(store.has(old) for old in _former(file))


def adopt(store: Store, file: File) -> bool:
    """Move a stored file from a former key to the key of `file`; return whether there was one.

    A file with a digest is verified first. A file with another digest stays where it is.
    """
    return any(_moved(store, old, file) for old in _former(file))


def _former(file: File) -> list[File]:
    # Not listed, because upstream may have another size of that file today.
    if not file.url:
        return []
    bare = File(filename=file.filename, url="", directory="")
    return [replace(bare, directory=each) for each in former_directories(file)]


def _moved(store: Store, old: File, file: File) -> bool:
    opened = store.open(old)
    if opened is None:
        return False
    verifier = FileVerifier(file)
    with opened:
        try:
            if file.has_digest:
                size = os.fstat(opened.fileno()).st_size
                off_loop(lambda: verifier.add_start(opened.fileno(), size))
                verifier.verify(None)
        except (DigestMismatch, DownloadInterrupted, OSError) as error:
            log.info("%s: the stored file %s is another one: %s", file.key, old.key, error)
            return False
        is_moved = store.move(opened, old, file)
        if is_moved and file.has_digest:
            store.mark_verified(opened)
    if is_moved:
        log.info("%s: using the stored file %s", file.key, old.key)
    return is_moved
