"""Command that saves a checkpoint with random weights in a published geometry."""

from __future__ import annotations

from pathlib import Path

import click

from albert_deploy.scripts.bench import GEOMETRIES, random_checkpoint


@click.command()
@click.argument("geometry", type=click.Choice(tuple(GEOMETRIES)))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Seed of the weights.")
def main(geometry: str, out: Path, seed: int) -> None:
    """Save an ALBERT classifier with random weights to OUT, which sizes and times are true for."""
    random_checkpoint(geometry, out=out, seed=seed)
    click.echo(f"{out}: {geometry}, random weights, seed {seed}")


if __name__ == "__main__":
    main()
