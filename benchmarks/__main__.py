"""``python -m benchmarks``: measure, print and write docs/performance.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from benchmarks import load, report
from benchmarks.charts import Plot, svg
from benchmarks.curves import CURVES
from benchmarks.environments import install_programs
from benchmarks.limits import LIMITS
from benchmarks.peers import Peers
from benchmarks.results import Row
from benchmarks.rows import ROWS, Bench
from benchmarks.upstream import Site

CURVES_BY_KEY = {f"plot-{name}": curve for name, curve in CURVES.items()}
MEASURES: dict[str, Callable[[Bench], Row | Plot]] = {**ROWS, **LIMITS, **CURVES_BY_KEY}
DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(MEASURES)),
    help="measure only this row or plot; repeatable",
)
@click.option("--quick", is_flag=True, help="few and short rounds, for a try")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".benchmarks"),
    show_default=True,
    help="directory for the peers' environments and the upstream index; needs 10 GB",
)
@click.option(
    "--latency",
    type=float,
    default=0,
    help="milliseconds added to each request from a cache to upstream",
)
def main(only: tuple[str, ...], quick: bool, work: Path, latency: float) -> None:
    """Measure pytail and its peers and draw the plots; without --only, write docs/performance.md."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    install_programs()
    site, work = Site(work.resolve() / "upstream-1"), work.resolve()
    peers = Peers(work, site.root, latency / 1000)
    site.root.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work / "run", ignore_errors=True)
    setting = report.setting(peers.environments)
    setting["latency upstream"] = f"{latency:g} ms, on loopback"
    click.echo("\n".join(f"{name}: {value}" for name, value in setting.items()) + "\n")
    with peers.nginx() as nginx:
        uv = load.uv_headers(peers.environments.program("clients", "uv"))
        bench = Bench(peers, site, nginx, 3 if quick else 7, 1 if quick else 4, quick, uv)
        # A plot has many points, so each is the median of a few short rounds.
        points = replace(bench, rounds=3, seconds=1)
        done: list[Row | Plot] = []
        for key in only or MEASURES:
            done.append(_measured(bench if key in (ROWS | LIMITS) else points, key))
            # After each row, so that an interrupted run keeps its rows.
            if not only:
                _write(done, setting, quick)
    click.echo("\n" + report.verdicts(each for each in done if isinstance(each, Row)))


def _measured(bench: Bench, key: str) -> Row | Plot:
    before = time.monotonic()
    try:
        done = MEASURES[key](bench)
    except (load.WrongResponse, subprocess.SubprocessError, OSError, RuntimeError) as error:
        # The other rows go on; the report says that this one failed.
        done = Row(key, key, "", notes=[f"failed: {error!r}"])
    if isinstance(done, Row):
        click.echo(report.detail(done))
    else:
        DOCUMENT.with_name(f"performance-{done.key}.svg").write_text(svg(done))
    click.echo(f"\n({key}: {time.monotonic() - before:.0f} s)\n")
    return done


def _write(done: list[Row | Plot], setting: dict[str, str], quick: bool) -> None:
    rows = [each for each in done if isinstance(each, Row)]
    plots = [each for each in done if isinstance(each, Plot)]
    command = "python -m benchmarks" + " --quick" * quick
    DOCUMENT.write_text(report.document(rows, plots, setting, command, quick))


if __name__ == "__main__":
    main()
