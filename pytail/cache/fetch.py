"""Feeds a download: fetches the file from upstream, or follows the process that fetches it.

One process writes the partial file of a file, and holds its lock. The others follow that file as it
grows. Where the writing process ends, one of them gets the lock and continues. A feeder evicts,
unlinks and reports only after the response that justifies it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterator

import gevent
from gevent.queue import Empty, Queue
from gevent.threadpool import ThreadPool

from pytail.cache.download import Download, DownloadState
from pytail.cache.passthrough import Opener
from pytail.errors import (
    DigestMismatch,
    DownloadAbandoned,
    DownloadInterrupted,
    NotStored,
    PytailError,
    UpstreamError,
    UpstreamUnreachable,
)
from pytail.model import File, Source
from pytail.runtime.threads import off_loop
from pytail.storage.archives import Structure
from pytail.storage.digests import FileVerifier
from pytail.storage.partial import PartialFile, PartialState
from pytail.storage.quota import Quota
from pytail.storage.store import Store
from pytail.telemetry.access import for_client

log = logging.getLogger("pytail.cache")

#: Chunks that wait for the consumer; a further one waits for a place among them.
_AHEAD = 1
#: Seconds between two looks at a partial file that another process writes.
_POLL = 0.01
#: Seconds between two signs of life of a writer, and without one after which it is not waited for.
_HEARTBEAT, _DEAD_AFTER = 1.0, 4.0
#: Seconds for which the last bytes wait for the disk at most.
_SYNC_WAIT = 0.1
#: Seconds without a byte and without a reader after which a fetch ends and its slot is free.
_ABANDON_AFTER = 10.0


class Feeder:
    """Feeds one download until it ends."""

    def __init__(
        self,
        download: Download,
        store: Store,
        quota: Quota,
        source_at: Opener,
        syncs: ThreadPool,
        is_stored: Callable[[File], bool],
    ) -> None:
        """`syncs` are the threads that wait for the disk.

        `is_stored` tells whether the store has the file, as upstream has it now.
        """
        self._download, self._file = download, download.file
        self._store, self._quota, self._source_at = store, quota, source_at
        self._syncs, self._is_stored = syncs, is_stored
        self._verifier, self._structure = FileVerifier(self._file), Structure(self._file.filename)

    def run(self, at_end: Callable[[], None]) -> None:
        """Feed the download; never raises. `at_end` is called before the last user leaves."""
        started, download = time.monotonic(), self._download
        try:
            with self._partial() as partial:
                if partial.is_writer or not self._follow(partial):
                    with self._alive(partial):
                        self._fetch(partial)
                        self._store_file(partial, started)
        except BaseException as error:  # noqa: BLE001
            # Readers need the error, and gevent's Timeout and GreenletExit are no Exceptions.
            self._fail(error)
        finally:
            at_end()
            download.release()

    @contextlib.contextmanager
    def _partial(self) -> Iterator[PartialFile]:
        """Open the partial file, and end what this process does with it with the block.

        Raises NotStored.
        """
        try:
            partial = self._store.partial(self._file)
        except OSError as error:
            raise NotStored(str(error)) from error
        self._download.attach(partial)
        try:
            yield partial
        except BaseException as error:
            if self._is_worth_resuming(error):
                partial.leave()
            else:
                partial.discard()
            raise
        finally:
            is_stored = self._download.state is DownloadState.STORED
            self._quota.release(partial, is_stored=is_stored)

    def _is_worth_resuming(self, error: BaseException) -> bool:
        """Return whether a later download continues: upstream or this process failed, no byte is wrong."""
        is_right = isinstance(error, (UpstreamError, gevent.GreenletExit))
        return is_right and self._verifier.has_digest and self._verifier.size > 0

    # Another process writes.

    def _follow(self, partial: PartialFile) -> bool:
        """Follow the partial file; return whether it was stored, False where this process has to write.

        Raises DownloadAbandoned where the writer gave up, NotStored where it stopped.
        """
        download, alive_at, written_at = self._download, time.monotonic(), partial.written_at
        verified_at = 0.0
        while not partial.try_lock():
            match partial.state():
                case PartialState.ABANDONED:
                    raise DownloadAbandoned
                case PartialState.COMMITTED:
                    download.verified(partial.size)
                    download.finish(is_stored=True)
                    return True
                case PartialState.VERIFIED if not download.is_verified:
                    verified_at = verified_at or time.monotonic()
                    if time.monotonic() - verified_at > _SYNC_WAIT:
                        download.verified(partial.size)
                case PartialState.DOWNLOADING if partial.size > download.received:
                    download.start(partial.whole_size, partial.size)
            if partial.written_at != written_at:
                alive_at, written_at = time.monotonic(), partial.written_at
            elif time.monotonic() - alive_at > _DEAD_AFTER and not download.is_verified:
                raise NotStored("the process that downloads the file has stopped")
            gevent.sleep(_POLL)
        if download.is_verified:
            # Its writer ended while the disk synced the file. This process syncs it.
            off_loop(lambda: self._verifier.add_start(partial.descriptor, partial.size))
            return False
        log.warning("the process that downloaded %s ended, resuming", self._file.key)
        return False

    # This process writes.

    def _fetch(self, partial: PartialFile) -> None:
        """Bring all bytes into the partial file, verify and release them."""
        download = self._download
        if self._is_stored(self._file):
            # Another process stored it between the look into the store and this lock.
            raise DownloadAbandoned
        # The size of the page is a hint, but one that saves a request.
        self._quota.require_fits(self._file.size or 0)
        if not download.is_verified:
            self._resume(partial)
        if not (self._verifier.size and self._verifier.matches):
            self._receive(partial)

    def _resume(self, partial: PartialFile) -> None:
        """Hash the bytes that another process left; or restart the file, where it has no digest."""
        left, size = partial.size, self._file.size
        if left and self._verifier.has_digest:
            off_loop(lambda: self._verifier.add_start(partial.descriptor, left))
            # The size of the page is a hint, but more bytes than that are wrong more often than not.
            is_useful = not size or left < size or self._verifier.matches
            if is_useful:
                log.info(
                    "resuming %s at %d, from the partial file of a process that ended",
                    self._file.key,
                    left,
                )
                return
        if left or self._download.received:
            self._restart(partial)

    def _restart(self, partial: PartialFile) -> None:
        """Begin the partial file again. Raises DownloadAbandoned where readers have bytes of the old."""
        if self._download.received:
            raise DownloadAbandoned
        self._verifier, self._structure = FileVerifier(self._file), Structure(self._file.filename)
        partial.restart()
        if not partial.is_writer:
            raise DownloadAbandoned

    def _receive(self, partial: PartialFile) -> None:
        download = self._download
        with contextlib.closing(self._source(partial)) as source:
            self._compare_size(source.size)
            try:
                self._quota.reserve(partial, source.size or self._verifier.size)
            except OSError as error:
                raise NotStored(str(error)) from error
            partial.announce(source.size)
            download.start(source.size, self._verifier.size)
            with contextlib.closing(read_ahead(source, self._is_wanted)) as received:
                for chunks in received:
                    off_loop(lambda chunks=chunks: self._write(partial, chunks))  # type: ignore[misc]
                    if source.size is None:
                        self._quota.reserve(partial, self._verifier.size)
                    self._verifier.verify_start(source.size)
                    download.progress(self._verifier.size)
            self._verify(source)

    def _source(self, partial: PartialFile) -> Source:
        """Return the bytes of the file from upstream that the partial file does not have."""
        source, left = self._source_at(self._verifier.size, None), self._verifier.size
        if left and source.size is not None and left >= source.size:
            # The partial file is too long, or it would match the digest: its bytes are wrong.
            source.close()
            self._restart(partial)
            source = self._source_at(0, None)
        return source

    def _compare_size(self, size: int | None) -> None:
        """Raise DigestMismatch where readers were told another size than that of the response."""
        known = self._download.size
        if known is not None and size not in (None, known):
            raise DigestMismatch(self._file.filename, "bytes", str(known), str(size))

    def _is_wanted(self, seconds: float) -> bool:
        """Return whether to wait on, after `seconds` without a byte."""
        return self._download.readers > 0 or seconds < _ABANDON_AFTER

    def _write(self, partial: PartialFile, chunks: list[bytes]) -> None:
        try:
            for chunk in chunks:
                partial.write(chunk)
                self._verifier.add(chunk)
                self._structure.add(chunk)
        except OSError as error:
            raise NotStored(str(error)) from error
        if partial.size != self._verifier.size:
            # Readers would get other bytes than those that were verified.
            reason = "another program changed the partial file"
            raise DownloadInterrupted(self._file.filename, reason)

    def _verify(self, source: Source) -> None:
        """Raise DigestMismatch or DownloadInterrupted unless the bytes are the whole file."""
        self._verifier.verify(source.size)
        if self._verifier.has_digest or self._file.is_sidecar:
            return
        self._structure.verify()
        if not (source.is_delimited or self._structure.has_end):
            # The connection just ended, and nothing tells whether that was the end of the file.
            raise NotStored("upstream gives neither digest nor length")

    def _store_file(self, partial: PartialFile, started: float) -> None:
        """Sync the verified file and move it into the store; release all bytes meanwhile."""
        download = self._download
        partial.mark_verified()
        committing = self._syncs.spawn(_error_of, partial.commit)
        # On a disk that is fast enough, the next request finds the file in the store.
        committing.wait(_SYNC_WAIT)
        download.verified(self._verifier.size)
        error: OSError | None = committing.get()
        if error is not None:
            # The bytes are right, and the readers have the partial file open.
            self._quota.report(NotStored(str(error)), download.size)
            partial.discard()
        download.finish(is_stored=error is None)
        what = "stored" if error is None else "downloaded, not stored:"
        seconds = time.monotonic() - started
        log.info("%s %s, %d bytes in %.2f s", what, self._file.key, download.received, seconds)

    @contextlib.contextmanager
    def _alive(self, partial: PartialFile) -> Iterator[None]:
        """Tell the processes that follow, during the block, that this one is alive."""

        def beat() -> None:
            while True:
                gevent.sleep(_HEARTBEAT)
                partial.touch()

        heart = gevent.spawn(beat)
        try:
            yield
        finally:
            heart.kill()

    def _fail(self, error: BaseException) -> None:
        download = self._download
        if isinstance(error, DownloadAbandoned):
            log.debug("download of %s starts again: %s", self._file.key, error)
        elif isinstance(error, NotStored):
            self._quota.report(error, download.size or self._file.size)
        elif download.state > DownloadState.STARTING or not isinstance(error, PytailError):
            # Else the access line of each client that waits says it.
            reason = str(error) or repr(error)
            log.error("cannot download %s: %s", self._file.key, reason)
        download.fail(error)


def _error_of(commit: Callable[[], None]) -> OSError | None:
    try:
        commit()
    except OSError as error:
        return error
    return None


def read_ahead(
    source: Source, is_wanted: Callable[[float], bool] = lambda _: True
) -> Generator[list[bytes], None, None]:
    """Yield the chunks of `source`, several where they arrived while the consumer was busy.

    `is_wanted` is asked each second without a chunk, with the seconds since the last one; where it
    returns False, UpstreamUnreachable is raised. Raises what `source.read` raises. Close the
    generator before `source`.
    """
    chunks: Queue[bytes | BaseException] = Queue(_AHEAD)
    # A transfer that breaks off takes another slot, which is the client's too.
    reader = gevent.spawn(for_client(lambda: _read_into(chunks, source)))
    try:
        last: bytes | BaseException = b"more"
        while last and isinstance(last, bytes):
            some = [_next_of(chunks, is_wanted)]
            while not chunks.empty():
                some.append(chunks.get())
            last = some[-1]
            if found := [chunk for chunk in some if chunk and isinstance(chunk, bytes)]:
                yield found
        if isinstance(last, BaseException):
            raise last
    finally:
        reader.kill()


def _read_into(chunks: Queue[bytes | BaseException], source: Source) -> None:
    """Put the chunks of `source` into the queue, at the end an empty one or the error."""
    last: bytes | BaseException = b""
    try:
        while data := source.read():
            chunks.put(data)
    except gevent.GreenletExit:
        return
    except BaseException as error:  # noqa: BLE001
        # The consumer waits for a chunk and must not wait for ever.
        last = error
    chunks.put(last)


def _next_of(
    chunks: Queue[bytes | BaseException], is_wanted: Callable[[float], bool]
) -> bytes | BaseException:
    waited = 0.0
    while is_wanted(waited):
        with contextlib.suppress(Empty):
            chunk: bytes | BaseException = chunks.get(timeout=1.0)
            return chunk
        waited += 1.0
    reason = f"no bytes for {waited:g} seconds, and no client waits for them"
    raise UpstreamUnreachable("upstream", reason)
