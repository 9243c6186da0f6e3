"""The results as Markdown, for the terminal and for docs/performance.md."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from benchmarks.charts import Plot
from benchmarks.environments import PACKAGES, Environments
from benchmarks.results import Row, Verdict, figure, judged

#: Dependencies of pytail that affect its speed.
_DEPENDENCIES = ["gevent", "falcon", "urllib3", "lxml", "orjson", "peewee", "gunicorn"]

_HEAD = """# Performance

`{command}` writes this page; [benchmarks/README.md](../benchmarks/README.md) explains the measurements
and how to repeat them. Figures are medians, with the lowest and the highest round in brackets. The
contestants of a row are measured in turn. Ratios therefore compare well, while absolute figures depend
on the machine.
"""
_COST = " processor time a request, µs |"
_QUICK = """
**Preliminary:** few and short rounds (`--quick`), so the figures are rough.
"""


def document(
    rows: list[Row], plots: list[Plot], setting: dict[str, str], command: str, quick: bool
) -> str:
    """Return the text of docs/performance.md."""
    parts = [_HEAD.format(command=command) + _QUICK * quick, "## Machine and versions"]
    parts += ["\n".join(f"- {name}: {value}" for name, value in setting.items())]
    parts += ["## Bounds", verdicts(rows), "## Rows", *map(detail, rows)]
    if plots:
        parts.append("## Plots")
        parts += [f"![{plot.title}: {plot.y}](performance-{plot.key}.svg)" for plot in plots]
    return "\n\n".join(parts) + "\n"


def verdicts(rows: Iterable[Row]) -> str:
    """Return a table of all bounds and their verdicts."""
    lines = [
        "| row | work | who | bound | measured | holds |",
        "|---|---|---|---|--:|---|",
    ]
    for row in rows:
        if not row.samples:
            lines.append(f"| {row.key} | {row.work} | | | not measured | **no** |")
        for verdict in _judged(row):
            cells = [row.key, row.work, verdict.bound.who, _bound(row, verdict), _measured(verdict)]
            lines.append(f"| {' | '.join(cells)} | {'yes' if verdict.holds else '**no**'} |")
    return "\n".join(lines)


def detail(row: Row) -> str:
    """Return the section of one row: the samples of each contestant, the verdicts, the notes."""
    lines = [f"### {row.key}: {row.work}", ""]
    if row.samples:
        cost = bool(row.costs)
        lines += [f"| | {row.unit} | rounds |{_COST * cost}", f"|---|--:|--:|{'--:|' * cost}"]
        lines += [_contestant(row, name) for name in row.samples]
    for verdict in _judged(row):
        holds = "holds" if verdict.holds else "**does not hold**"
        bound = f"{verdict.bound.who}: {_bound(row, verdict)}"
        lines += ["", f"{bound}: {_measured(verdict)}, {holds}."]
    lines += [line for note in row.notes for line in ("", f"Note: {note}.")]
    return "\n".join(lines)


def setting(environments: Environments) -> dict[str, str]:
    """Return the machine and the versions of the programs, by name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load_average = " ".join(f"{value:.1f}" for value in os.getloadavg())
    found = {
        "machine": f"{os.cpu_count()} cores, {_cpu()}, {memory:.0f} GiB of memory",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load average before": load_average,
        "pytail": ", ".join([f"{version('pytail')} ({_commit()})", *map(_named, _DEPENDENCIES)]),
        "nginx": _first_line(["nginx", "-v"]).rpartition("/")[2],
        "wrk": _first_line(["wrk", "-v"]).split("[")[0].removeprefix("wrk ").strip(),
    }
    for name in PACKAGES:
        versions = environments.versions(name).items()
        found[name] = ", ".join(f"{package} {number}" for package, number in versions)
    return found


def _contestant(row: Row, name: str) -> str:
    line = f"| {name} | {_spread(row.samples[name])} | {len(row.samples[name])} |"
    return f"{line} {figure(statistics.median(row.costs[name]))} |" if row.costs else line


def _judged(row: Row) -> list[Verdict]:
    return [judged(bound, row.samples) for bound in row.bounds if row.samples]


def _bound(row: Row, verdict: Verdict) -> str:
    return f"{verdict.bound}" if verdict.bound.against else f"{verdict.bound} {row.unit}"


def _measured(verdict: Verdict) -> str:
    unit = " x" if verdict.bound.against else ""
    spread = f"({figure(verdict.lowest)} to {figure(verdict.highest)})"
    return f"{figure(verdict.measured)}{unit} {spread}"


def _spread(values: list[float]) -> str:
    return f"{figure(statistics.median(values))} ({figure(min(values))} to {figure(max(values))})"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _commit() -> str:
    ran = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return _first_line(ran) or "no checkout"


def _first_line(command: list[str]) -> str:
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    return (ran.stdout or ran.stderr).partition("\n")[0].strip()


def _named(package: str) -> str:
    return f"{package} {version(package)}"
