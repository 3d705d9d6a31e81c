"""Command that saves a checkpoint with random weights in a published geometry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from albert_deploy.export.samples import SAMPLES
from albert_deploy.runtime.errors import lookup
from albert_deploy.runtime.manifest import write_json

# The four sizes of ALBERT v2, Lan et al. 2020, table 1, as their released config.json have them.
GEOMETRIES: dict[str, dict[str, int]] = {
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "xlarge": {
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 8192,
    },
    "xxlarge": {
        "hidden_size": 4096,
        "num_hidden_layers": 12,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
    },
}
_COMMON = {
    "vocab_size": 30000,
    "embedding_size": 128,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu_new",
    "num_labels": 2,
}


def random_checkpoint(geometry: str, *, out: Path, seed: int = 0) -> None:
    """Save an ALBERT classifier with random weights and the sample's tokenizer.

    Args:
        geometry: Key of ``GEOMETRIES``.
        out: Folder to make.
        seed: Seed of the weights.

    Raises:
        InputError: Unknown geometry.
    """
    save_random(lookup(GEOMETRIES, geometry, "geometry"), out=out, seed=seed)


def save_random(sizes: Mapping[str, int], *, out: Path, seed: int = 0) -> None:
    """Save such a classifier in any size.

    Args:
        sizes: Keys of ``AlbertConfig``, as in ``GEOMETRIES``.
        out: Folder to make.
        seed: Seed of the weights.
    """
    import torch
    from transformers import AlbertConfig, AlbertForSequenceClassification
    from transformers.utils import logging

    config = AlbertConfig(**(_COMMON | dict(sizes)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AlbertForSequenceClassification(config)
    logging.disable_progress_bar()
    model.save_pretrained(out)
    tokenizer = SAMPLES["sample-sst2"].checkpoint
    (out / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    # The sample is a shorter model; its limit would rule the longer lengths out.
    write_json(
        out / "tokenizer_config.json",
        settings | {"model_max_length": config.max_position_embeddings},
    )


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
