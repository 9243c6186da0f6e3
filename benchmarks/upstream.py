"""The index upstream: pages, wheels and large files on disk, for nginx to serve as they are.

What is there already is used again. A page lists as much for each file as the public index does;
most files exist on pages only.
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
    """A directory that holds an index."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def page(self, project: str, count: int, *listed: dict[str, Any], packed: bool = True) -> str:
        """A page of `count` files, `listed` among them; `packed`: beside it compressed by gzip."""
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
        # Last: it says that the page is whole.
        (directory / "index.json").write_bytes(data)
        return project

    def mix(self) -> dict[str, int]:
        """Project -> files, of the mix; the newest file of each is a wheel that can be installed.

        The first eight require four others each, so that all come in by asking for eight.
        """
        names, sizes = list(MIX), log_spaced(20 * KIB, 3 * MIB, len(MIX))
        random.Random(6).shuffle(sizes)
        for place, (name, size) in enumerate(zip(names, sizes, strict=True)):
            needs = names[8 + place * 4 : 12 + place * 4] if place < 8 else []
            payload = random.Random(name).randbytes(size)
            dist = wheel(name, "1.0.0", needs, payload, **{"requires-python": ">=3.8"})
            self._keep(dist)
            self.page(name, MIX[name], dist.entry())
        # devpi asks for the list before it believes in a project.
        listed = {"meta": {"api-version": "1.1"}, "projects": [{"name": name} for name in names]}
        (self.root / "simple" / "index.json").write_text(json.dumps(listed))
        return MIX

    def roots(self) -> list[str]:
        """The projects of the mix that require all others."""
        return list(MIX)[:8]

    def ballast(self, project: str, *sizes: int) -> dict[int, str]:
        """A project with a file of each of `sizes` bytes; size -> sha256."""
        entries = [self._large(project, f"{place}.0", size) for place, size in enumerate(sizes, 1)]
        self.page(project, len(sizes), *entries)
        return {entry["size"]: entry["hashes"]["sha256"] for entry in entries}

    def _keep(self, dist: Dist) -> None:
        path = self.root / dist.path[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dist.data)
        path.with_name(f"{path.name}.metadata").write_bytes(dist.metadata or b"")

    def _large(self, project: str, version: str, size: int) -> dict[str, Any]:
        filename = f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
        path = self.root / "packages" / "large" / filename
        block, digest = random.Random(filename).randbytes(min(size, MIB)), hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        with path.open("wb" if fresh else "rb") as file:
            for start in range(0, size, len(block)):
                piece = block[: size - start]
                digest.update(piece)
                if fresh:
                    file.write(piece)
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
