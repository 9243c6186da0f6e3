"""Core metadata of wheels whose upstream has none to give, read out of the wheels themselves.

Resolvers fail where metadata was promised and is not there. So it is read out of the wheel: the one
we hold, else the few stretches of upstream's that it takes, never the whole of a large one. What is
learnt by it, the digest or that there is nothing to be had, changes what the page promises.
"""

from __future__ import annotations

import hashlib
import logging

from pytail.cache import lazy_wheel
from pytail.errors import (
    FileGone,
    UpstreamGarbled,
    UpstreamRefused,
    UpstreamWithoutRanges,
    WheelUnreadable,
)
from pytail.model import File
from pytail.runtime.threads import off_loop
from pytail.storage.catalog import Catalog
from pytail.storage.store import Store
from pytail.upstream.files import FileClient

log = logging.getLogger("pytail.cache")

#: Stretches asked for at most: the end of the directory, its start, the member, the rest of it.
_MOST_STRETCHES = 8


class MetadataSource:
    """The bytes of a metadata file, in the shape of a transfer."""

    def __init__(self, data: bytes) -> None:
        self.size: int | None = len(data)
        self.etag: str | None = None
        self._data = data

    def read(self) -> bytes:
        """All bytes, then none."""
        data, self._data = self._data, b""
        return data

    def close(self) -> None:
        """Nothing is open."""


class CoreMetadata:
    """Reads metadata out of wheels."""

    def __init__(self, catalog: Catalog, store: Store, upstream: FileClient) -> None:
        self._catalog, self._store, self._upstream = catalog, store, upstream

    def source_of(self, wheel: File) -> MetadataSource:
        """The metadata of `wheel`.

        Raises WheelUnreadable where there is none to be had, or FileGone or an UpstreamError.
        """
        try:
            data = self._held(wheel) or self._remote(wheel)
        except WheelUnreadable as error:
            log.warning("%s; its page no longer promises any", error)
            self._catalog.set_core_metadata(wheel, None)
            raise
        self._catalog.set_core_metadata(wheel, hashlib.sha256(data).hexdigest())
        log.info("read the metadata out of %s, %d bytes", wheel.key, len(data))
        return MetadataSource(data)

    def _held(self, wheel: File) -> bytes | None:
        held = self._store.open(wheel)
        if held is None:
            return None
        with held:
            return off_loop(lambda: lazy_wheel.core_metadata(held, wheel.filename))

    def _remote(self, wheel: File) -> bytes:
        size = wheel.size
        try:
            if size is None:
                size = self._upstream.size(wheel.url)
            if size is None:
                raise UpstreamGarbled(wheel.url, "does not say how large the wheel is")
            return self._read(wheel, lazy_wheel.WheelRanges(size))
        except UpstreamWithoutRanges as error:
            raise WheelUnreadable(wheel.filename, str(error)) from error
        except UpstreamRefused as error:
            if error.status in (404, 410):
                raise FileGone(wheel.filename) from error
            raise

    def _read(self, wheel: File, pieces: lazy_wheel.WheelRanges) -> bytes:
        start, stop = max(0, pieces.size - lazy_wheel.TAIL), pieces.size
        for _ in range(_MOST_STRETCHES):
            pieces.add(*self._upstream.read_range(wheel.url, start, stop, pieces.size))
            try:
                return off_loop(lambda: lazy_wheel.core_metadata(pieces, wheel.filename))
            except lazy_wheel.RangeMissing as missing:
                start, stop = missing.start, missing.stop
        raise WheelUnreadable(wheel.filename, "it is scattered over too many places")
