"""Measure a served model against the same model in this process, and fail where it is too slow.

``python -m albert_deploy.scripts.tools.load_test DIR --server .venv-serve/bin/albert-deploy``
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from albert_deploy.runtime.errors import AlbertDeployError, ContractError, PerformanceError
from albert_deploy.runtime.manifest import write_json
from albert_deploy.scripts.cli import options
from albert_deploy.scripts.tools.load import PROTOCOLS, Load, closed_load, open_load
from albert_deploy.scripts.tools.running import Running, running
from albert_deploy.validation.tables import markdown_table

_LOG = logging.getLogger(__name__)
# What the gate is about: so many requests at once, and batches of as many in this process.
_CONCURRENCY = 16
_TOLERANCE = 1e-4


@click.command()
@options.directory
@options.option(
    "--server",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="albert-deploy of the environment that serves.",
)
@options.option("--texts", type=click.Path(path_type=Path), default=None, help="A text per line.")
@options.option("--count", default=800, type=click.IntRange(min=100), help="Texts of a run.")
@options.option("--rounds", default=5, type=click.IntRange(min=1), help="Of the comparison.")
@options.option("--concurrency", default="1,4,16,64", help="Requests at once, of the table.")
@options.option("--least", default=0.8, type=float, help="Share of the throughput here to reach.")
@options.option("--out", type=click.Path(path_type=Path), default=None, help="JSON file to write.")
@options.option("--plot", type=click.Path(path_type=Path), default=None, help="SVG to draw.")
def main(
    directory: Path,
    server: Path,
    texts: Path | None,
    count: int,
    rounds: int,
    concurrency: str,
    least: float,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Serve DIR, a text classifier, and measure it over HTTP and gRPC.

    Ends with 7 where 16 requests at once, each of a text, are not answered at --least of the speed
    of batches of 16 in this process, and with 4 where an answer differs.
    """
    asked = _texts(texts, count)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with options.progress(), running(server, directory, log) as served:
            report = measure(served, directory, asked, rounds, options.numbers("", concurrency))
    click.echo(tables(report))
    if out is not None:
        write_json(out, report)
    if plot is not None:
        draw(report, plot)
    if report["share"] < least:
        raise PerformanceError(
            f"served throughput is {report['share']:.2f} of that in this process; "
            f"{least:.2f} was wanted"
        )


def measure(
    served: Running,
    directory: Path,
    texts: Sequence[str],
    rounds: int,
    concurrencies: Sequence[int],
) -> dict[str, Any]:
    """Measure a server and this process in turns, then latencies under several loads.

    Args:
        served: A server of the directory.
        directory: What it serves.
        texts: To ask.
        rounds: Of the comparison.
        concurrencies: Requests at once, for the table.

    Returns:
        ``share`` of the throughput of this process that 16 requests at once reach (the median of
        the rounds' own shares: what slows the machine for a while slows both),
        ``here`` and ``there`` (texts per second of each round), ``loads`` (one object a run).

    Raises:
        ContractError: An answer differs from that of this process.
    """
    from albert_deploy.runtime import load

    urls = {"http": served.http, "grpc": served.grpc}
    here: list[float] = []
    there: list[float] = []
    with load(directory) as model:
        wanted = list(model.stream(texts))
        for number in range(rounds):
            _LOG.info(f"round {number + 1} of {rounds}: in this process, then served")
            start = time.perf_counter()
            for _ in model.stream(texts, batch_size=_CONCURRENCY):
                pass
            here.append(len(texts) / (time.perf_counter() - start))
            run = closed_load(served.http, served.name, "http", texts, _CONCURRENCY)
            _compare(run.answers, wanted)
            there.append(run.texts_per_s)
    loads: list[Load] = []
    for protocol in PROTOCOLS:
        for concurrency in concurrencies:
            _LOG.info(f"{protocol}, {concurrency} at once")
            some = texts if concurrency > 1 else texts[: max(100, len(texts) // 4)]
            loads.append(closed_load(urls[protocol], served.name, protocol, some, concurrency))
            _compare(loads[-1].answers, wanted)
        rate = statistics.median(there) / 2
        _LOG.info(f"{protocol}, {rate:.0f} texts a second")
        loads.append(open_load(urls[protocol], served.name, protocol, texts, rate))
        _compare(loads[-1].answers, wanted)
    return {
        "texts": len(texts),
        "concurrency": _CONCURRENCY,
        "share": statistics.median(a / b for a, b in zip(there, here, strict=True)),
        "here_texts_per_s": here,
        "there_texts_per_s": there,
        "loads": [{k: v for k, v in asdict(one).items() if k != "answers"} for one in loads],
    }


def tables(report: dict[str, Any]) -> str:
    """Return the tables for people."""
    here, there = (statistics.median(report[f"{place}_texts_per_s"]) for place in ("here", "there"))
    rows = [
        [
            one["protocol"],
            f"{one['concurrency']} at once"
            if one["concurrency"]
            else f"{one['rate_per_s']:.0f} a second",
            f"{one['texts_per_s']:.0f}",
            *(f"{one[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
        ]
        for one in report["loads"]
    ]
    head = ["protocol", "requests", "texts/s", "p50 ms", "p95 ms", "p99 ms"]
    return (
        f"in this process, batches of {report['concurrency']}: {here:.0f} texts/s\n"
        f"served over HTTP, {report['concurrency']} requests at once: {there:.0f} texts/s, "
        f"{100 * report['share']:.0f}% (median of {len(report['here_texts_per_s'])} rounds)\n\n"
        + markdown_table(rows, head)
    )


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw latency over throughput of both protocols as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for protocol, colour in zip(PROTOCOLS, ("tab:blue", "tab:orange"), strict=True):
        runs = [o for o in report["loads"] if o["protocol"] == protocol and o["concurrency"]]
        speeds = [one["texts_per_s"] for one in runs]
        for key, style in (("p50_ms", "-"), ("p99_ms", "--")):
            label = f"{protocol}, {key.removesuffix('_ms')}"
            axes.plot(speeds, [o[key] for o in runs], style, color=colour, marker="o", label=label)
        for one, speed in zip(runs, speeds, strict=True):
            place = (speed, one["p99_ms"])
            axes.annotate(str(one["concurrency"]), place, (4, 4), textcoords="offset points")
    axes.axvline(statistics.median(report["here_texts_per_s"]), color="grey", linestyle=":")
    axes.set(xlabel="texts per second", ylabel="latency in ms", yscale="log")
    axes.set_title("Latency by requests at once; dotted: this process, batches of 16", fontsize=10)
    axes.legend()
    figure.savefig(path, format="svg", metadata={"Date": None})


def _compare(answers: Sequence[Any], wanted: Sequence[Any]) -> None:
    for number, (got, want) in enumerate(zip(answers, wanted, strict=False), 1):
        if got["label"] != want["label"] or abs(got["score"] - want["score"]) > _TOLERANCE:
            raise ContractError(f"text {number} was answered {got}; in this process {want}")


def _texts(path: Path | None, count: int) -> list[str]:
    if path is None:
        from albert_deploy.validation.data.datasets import shipped_texts

        rows: list[Any] = shipped_texts("text-classification", count)
        found = [row.text for row in rows]
    else:
        found = path.read_text(encoding="utf-8").splitlines()
    return [found[number % len(found)] for number in range(count)]


if __name__ == "__main__":
    try:
        main.main(standalone_mode=False)
    except AlbertDeployError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
