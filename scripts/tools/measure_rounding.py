"""How far fp32 files are from float64, as a multiple of their own source: what the gate allows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np

from albert_deploy.export.samples.random import GEOMETRIES, save_random
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.tasks.tokenize import load_tokenizer
from albert_deploy.validation.data.datasets import read_data, shipped_texts
from albert_deploy.validation.data.rows import RowsConfig, encode_rows
from albert_deploy.validation.evaluate.evaluate import decisions, run_grid
from albert_deploy.validation.evaluate.exact import ROWS, Float64, open_exact
from albert_deploy.validation.evaluate.reference import open_reference
from albert_deploy.validation.evaluate.workers import SOURCE
from albert_deploy.validation.gate.policy import DEFAULT_LIMITS
from albert_deploy.validation.parity.difference import edge_grid
from albert_deploy.validation.parity.rounding import Rounding
from albert_deploy.validation.parity.stages import open_variant
from albert_deploy.validation.tables import markdown_table

FP32 = "fp32"
PLACES = ("rows", "grid")
# Small enough for many seeds: flat, as deep as ALBERT-large, and wider.
SMALL: dict[str, dict[str, int]] = {
    name: {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 16,
        "intermediate_size": 4 * hidden,
        "vocab_size": 4000,
    }
    for name, hidden, layers in (("64 x 2", 64, 2), ("64 x 24", 64, 24), ("256 x 6", 256, 6))
}
_COLUMNS = ("model", "files", "source, of scale", "median ratio", "largest", "changed", "refused")


def measure(
    directory: Path, dataset: tuple[str, Path] | None = None, *, longest: int | None = None
) -> dict[str, dict[str, Rounding]]:
    """Hold a directory's fp32 file, and its source, against float64 as the gate does.

    Args:
        directory: Deployment directory.
        dataset: Name and folder of the rows; None takes the texts that are shipped.
        longest: Longest rows of the edge grid; None for the checkpoint's.

    Returns:
        Where (``rows``, ``grid``) -> output -> errors.
    """
    manifest = read_manifest(directory)
    contract, task = manifest["contract"], manifest["task"]
    decide = decisions(contract, task)
    rows = read_data(*dataset).rows[:ROWS] if dataset else shipped_texts(task, ROWS)
    encoded = encode_rows(rows, contract, load_tokenizer(directory), RowsConfig(truncate=True))
    feeds = [row.feeds[0] for row in encoded]
    with (
        open_reference(manifest) as source,
        open_exact(manifest) as exact,
        open_variant(directory, manifest, FP32) as file,
    ):
        sessions = {SOURCE: source, FP32: file}
        float64 = Float64(exact, decide, [FP32])
        float64.run(sessions, feeds, failures={})
        shorter = contract | {"max_length": min(longest or 10**6, contract["max_length"])}
        texts = [one["input_ids"].reshape(-1) for one in feeds]
        cases = edge_grid(shorter, manifest["source"]["config"], texts)
        run_grid(sessions, cases, decide, float64=float64)
    return float64.found[FP32]


def table_row(model: str, found: Iterable[dict[str, dict[str, Rounding]]]) -> list[str]:
    """Return a model's line: of all files and both places, the worst output of each."""
    files = list(found)
    limit = DEFAULT_LIMITS[FP32].max_error_ratio or 0.0
    outputs = [[r for place in PLACES for r in file[place].values()] for file in files]
    worst = [max(r.ratio for r in file) for file in outputs]
    refused = [max(max(r.ratio, r.changed_ratio) for r in file) > limit for file in outputs]
    own = max(r.source_max / r.peak for file in outputs for r in file)
    return [
        model,
        str(len(files)),
        f"{own:.1e}",
        f"{np.median(worst):.2f}",
        f"{max(worst):.2f}",
        str(sum(r.changed for file in outputs for r in file)),
        f"{sum(refused)}",
    ]


@click.command()
@click.option("--seeds", default=20, show_default=True, help="Small models of each size.")
@click.option("--geometry", multiple=True, type=click.Choice(tuple(GEOMETRIES)))
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=(click.Path(exists=True, file_okay=False, path_type=Path), str),
    help="A checkpoint and NAME=FOLDER of its rows, or - for the texts that are shipped.",
)
@click.option("--longest", type=int, help="Longest rows of the edge grid.")
def main(
    seeds: int,
    geometry: tuple[str, ...],
    checkpoints: tuple[tuple[Path, str], ...],
    longest: int | None,
) -> None:
    """Print how many times its source's error against float64 an fp32 file's is."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="albert-deploy-") as folder:
        place = Path(folder)
        for name, sizes in (SMALL | {name: GEOMETRIES[name] for name in geometry}).items():
            found = []
            for seed in range(seeds if name in SMALL else 1):
                made = place / f"{name} {seed}"
                save_random(sizes, out=made / "checkpoint", seed=seed)
                export(str(made / "checkpoint"), ExportConfig(), out=made / "out")
                found.append(measure(made / "out", longest=longest))
            if found:
                lines.append(table_row(f"{name}, random", found))
        for number, (checkpoint, data) in enumerate(checkpoints):
            name, _, path = data.partition("=")
            out = place / f"checkpoint {number}"
            export(str(checkpoint), ExportConfig(), out=out)
            rows = (name, Path(path)) if path else None
            lines.append(table_row(checkpoint.name, [measure(out, rows, longest=longest)]))
    click.echo(markdown_table(lines, _COLUMNS))


if __name__ == "__main__":
    main()
