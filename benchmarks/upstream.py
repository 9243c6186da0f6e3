"""The upstream index: pages, wheels and large files on disk, which nginx serves.

Existing files are reused. A page has the same fields for each file as on the public index. Most files
exist on pages only.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

from benchmarks.results import log_spaced
from tests.support.fakeindex import Dist, wheel

KIB, MIB, GIB = 2**10, 2**20, 2**30

#: Files on each page of the realistic mix.
MIX = {f"mix-{count}": count for count in log_spaced(5, 8000, 40)}


class Site:
    """The directory of an index."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def page(self, project: str, count: int, *listed: dict[str, Any], packed: bool = True) -> str:
        """Write a page of `count` files, including `listed`; `packed`: also in gzip. Return `project`."""
        directory = self.root / "simple" / project
        if (directory / "index.json").exists():
            return project
        files = [*(_entry(project, number) for number in range(count - len(listed))), *listed]
        versions = [file["filename"].split("-")[1] for file in files]
        page = {"meta": {"api-version": "1.1"}, "name": project, "versions": versions}
        data = json.dumps({**page, "files": files}, separators=(",", ":")).encode()
        directory.mkdir(parents=True, exist_ok=True)
        if packed:
            (directory / "index.json.gz").write_bytes(gzip.compress(data, 6, mtime=0))
        # Last, because its existence marks the page as complete.
        (directory / "index.json").write_bytes(data)
        return project

    def mix(self) -> dict[str, int]:
        """Write the projects of the mix; return the number of files of each.

        The newest file of each project is a wheel that installs. The first eight require four others
        each, so that eight requirements install all 40.
        """
        names, sizes = list(MIX), log_spaced(20 * KIB, 3 * MIB, len(MIX))
        random.Random(6).shuffle(sizes)
        for place, (name, size) in enumerate(zip(names, sizes, strict=True)):
            needs = names[8 + place * 4 : 12 + place * 4] if place < 8 else []
            payload = random.Random(name).randbytes(size)
            dist = wheel(name, "1.0.0", needs, payload, **{"requires-python": ">=3.8"})
            self._store(dist)
            self.page(name, MIX[name], dist.entry())
        # devpi serves only projects of the list.
        listed = {"meta": {"api-version": "1.1"}, "projects": [{"name": name} for name in names]}
        (self.root / "simple" / "index.json").write_text(json.dumps(listed))
        return MIX

    def roots(self) -> list[str]:
        """Return the projects of the mix that require the others."""
        return list(MIX)[:8]

    def ballast(self, project: str, *sizes: int) -> dict[int, str]:
        """Write a project with one file for each of `sizes`, in bytes; return sha256 by size."""
        entries = [self._large(project, f"{place}.0", size) for place, size in enumerate(sizes, 1)]
        self.page(project, len(sizes), *entries)
        return {entry["size"]: entry["hashes"]["sha256"] for entry in entries}

    def _store(self, dist: Dist) -> None:
        path = self.root / dist.path[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dist.data)
        path.with_name(f"{path.name}.metadata").write_bytes(dist.metadata or b"")

    def _large(self, project: str, version: str, size: int) -> dict[str, Any]:
        filename = f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
        path = self.root / "packages" / "large" / filename
        block, digest = random.Random(filename).randbytes(min(size, MIB)), hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("wb" if is_new else "rb") as file:
            for start in range(0, size, len(block)):
                chunk = block[: size - start]
                digest.update(chunk)
                if is_new:
                    file.write(chunk)
        entry = _entry(project, 0) | {"filename": filename, "size": size}
        hashes = {"sha256": digest.hexdigest()}
        del entry["core-metadata"]
        return entry | {"url": f"../../packages/large/{filename}", "hashes": hashes}


def _entry(project: str, number: int) -> dict[str, Any]:
    digest = hashlib.sha256(f"{project} {number}".encode()).hexdigest()
    filename = f"{project.replace('-', '_')}-0.{number}-py3-none-any.whl"
    path = f"{digest[:2]}/{digest[2:4]}/{digest[4:]}"
    return {
        "core-metadata": {"sha256": digest[::-1]},
        "data-dist-info-metadata": {"sha256": digest[::-1]},
        "filename": filename,
        "hashes": {"sha256": digest},
        "provenance": None,
        "requires-python": ">=3.8",
        "size": 20_000 + number,
        "upload-time": f"2024-05-{number % 28 + 1:02}T07:08:09.{number % 1_000_000:06}Z",
        "url": f"../../packages/{path}/{filename}",
        "yanked": False,
    }
