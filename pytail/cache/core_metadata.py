"""Core metadata for wheels whose upstream has none, read out of the wheels.

Resolvers fail where a page promises core metadata and the response is a 404. So pytail reads the
metadata out of the stored wheel, or out of a few ranges of the wheel upstream. Afterwards, the page
promises the digest of the metadata, or no metadata where the wheel is unreadable.
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

#: Maximum number of ranges for one wheel: the end of the directory, its start, METADATA, its rest.
_MAX_RANGES = 8


class MetadataSource:
    """A `Source` of the bytes of a metadata file."""

    def __init__(self, data: bytes) -> None:
        self.size: int | None = len(data)
        self.etag: str | None = None
        self.is_delimited = True
        self._data = data

    def read(self) -> bytes:
        """Return all bytes at the first call, then none."""
        data, self._data = self._data, b""
        return data

    def close(self) -> None:
        """Do nothing: no connection is open."""


class CoreMetadata:
    """Reads core metadata out of wheels."""

    def __init__(self, catalog: Catalog, store: Store, upstream: FileClient) -> None:
        self._catalog, self._store, self._upstream = catalog, store, upstream

    def source_of(self, wheel: File) -> MetadataSource:
        """Return the core metadata of `wheel`, and write its digest to the catalog.

        Raises WheelUnreadable, FileGone or an UpstreamError.
        """
        try:
            data = self._from_store(wheel) or self._from_upstream(wheel)
        except WheelUnreadable as error:
            log.warning("%s; the page no longer promises core metadata", error)
            self._catalog.set_core_metadata(wheel, None)
            raise
        self._catalog.set_core_metadata(wheel, hashlib.sha256(data).hexdigest())
        log.info("read the core metadata out of %s, %d bytes", wheel.key, len(data))
        return MetadataSource(data)

    def _from_store(self, wheel: File) -> bytes | None:
        opened = self._store.open(wheel)
        if opened is None:
            return None
        with opened:
            return off_loop(lambda: lazy_wheel.core_metadata(opened, wheel.filename))

    def _from_upstream(self, wheel: File) -> bytes:
        size = wheel.size
        try:
            if size is None:
                size = self._upstream.size(wheel.url)
            if size is None:
                raise UpstreamGarbled(wheel.url, "does not send the size of the wheel")
            return self._read(wheel, lazy_wheel.WheelRanges(size))
        except UpstreamWithoutRanges as error:
            raise WheelUnreadable(wheel.filename, str(error)) from error
        except UpstreamRefused as error:
            if error.status in (404, 410):
                raise FileGone(wheel.filename) from error
            raise

    def _read(self, wheel: File, ranges: lazy_wheel.WheelRanges) -> bytes:
        start, stop = max(0, ranges.size - lazy_wheel.END_SIZE), ranges.size
        for _ in range(_MAX_RANGES):
            ranges.add(*self._upstream.read_range(wheel.url, start, stop, ranges.size))
            try:
                return off_loop(lambda: lazy_wheel.core_metadata(ranges, wheel.filename))
            except lazy_wheel.RangeMissing as missing:
                start, stop = missing.start, missing.stop
        raise WheelUnreadable(wheel.filename, f"more than {_MAX_RANGES} ranges are needed")
