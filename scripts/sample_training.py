"""Optimization of the sample checkpoints on one CPU thread, the same steps in every run."""

import bisect
import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

POOL_BATCHES: Final = 40
LONGEST_WAVE: Final = 1000.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters of one training run.

    Rows are admitted by length: from `first_cap` tokens to `last_cap` tokens over the first
    `graded` share of the steps, then all rows of the real distribution.
    """

    steps: int
    batch_rows: int
    learning_rate: float
    first_cap: int
    last_cap: int
    bend: float
    graded: float = 0.85
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 7


def make_repeatable(seed: int) -> None:
    """Seed everything and restrict torch to deterministic kernels on one thread."""
    import torch

    random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def graded_batches(lengths: Sequence[int], recipe: Recipe, real: range) -> list[list[int]]:
    """Plan the rows of every step, short rows first, each batch of similar lengths.

    Args:
        lengths: Tokens of each row.
        recipe: Hyperparameters.
        real: Rows of the real distribution, which alone fill the last steps.

    Returns:
        `recipe.steps` lists of `recipe.batch_rows` row numbers.

    Raises:
        ValueError: If no row is as short as the first cap asks.
    """
    rng = random.Random(recipe.seed)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ranked = [lengths[i] for i in order]
    if not ranked or ranked[0] > recipe.first_cap:
        raise ValueError(f"no row has {recipe.first_cap} tokens or fewer")
    plan: list[list[int]] = []
    size = recipe.batch_rows
    while len(plan) < recipe.steps:
        share = len(plan) / recipe.steps / recipe.graded
        if share < 1:
            cap = recipe.first_cap + (recipe.last_cap - recipe.first_cap) * share**recipe.bend
            admitted = bisect.bisect_right(ranked, cap)
            pool = [order[rng.randrange(admitted)] for _ in range(size * POOL_BATCHES)]
        else:
            pool = [rng.choice(real) for _ in range(size * POOL_BATCHES)]
        pool.sort(key=lengths.__getitem__)
        batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(batches)
        plan += batches
    return plan[: recipe.steps]


def padded(rows: Sequence[Sequence[int]], fill: int = 0) -> "torch.Tensor":
    """Stack rows of ids into an int64 tensor `[len(rows), longest]`, filled on the right."""
    import torch

    longest = max(map(len, rows))
    return torch.tensor([[*row, *([fill] * (longest - len(row)))] for row in rows])


def prepare_weights(model: "PreTrainedModel", *, matching: float, waves: float) -> None:
    """Adapt the random start to a stack that repeats one layer and has little to learn from.

    The residual branches start weak, so that repeating them keeps the signal. Positions start
    as sine waves of amplitude `waves`, so that neighbours are alike. Keys start equal to queries,
    scaled by `matching`: equal words and near words then attend to each other from the first
    step, which is how a question finds its words in a text and a negation its adjective.
    """
    import torch

    found = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in found.items():
            if name.endswith(("attention.dense.weight", "ffn_output.weight")):
                weight.mul_(0.4)
            if name.endswith("attention.query.weight"):
                weight.mul_(matching)
                found[name.replace("query", "key")].copy_(weight)
            if name.endswith("position_embeddings.weight"):
                half = weight.shape[1] // 2
                pace = LONGEST_WAVE ** (-torch.arange(half) / half)
                angle = torch.arange(weight.shape[0])[:, None] * pace
                weight.copy_(waves * torch.cat([angle.sin(), angle.cos()], dim=1))


def optimize(
    model: "PreTrainedModel",
    plan: Sequence[Sequence[int]],
    loss_of: Callable[[Sequence[int], float], "torch.Tensor"],
    recipe: Recipe,
    *,
    title: str,
    extra: Iterable["torch.nn.Parameter"] = (),
) -> None:
    """Run AdamW over the planned batches with linear warm-up and cosine decay.

    Args:
        model: Model to train in place; left in evaluation mode.
        plan: Row numbers of every step of the whole run.
        loss_of: Loss of one batch, from its row numbers and the share of the run done (0 to 1).
        recipe: Hyperparameters.
        title: Name on the progress bar.
        extra: Further weights to train, those of a helper head.

    Raises:
        RuntimeError: If the loss stops being finite.
    """
    import torch
    from tqdm import tqdm

    weights: list[torch.nn.Parameter] = [*model.parameters(), *extra]
    groups: list[dict[str, Any]] = [
        {"params": [w for w in weights if w.ndim > 1]},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    warm = max(1, int(len(plan) * recipe.warmup))
    ramp = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warm)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(plan) - warm)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [ramp, cosine], [warm])
    model.train()
    bar = tqdm(plan, desc=title, unit="step", disable=not sys.stderr.isatty())
    for step, rows in enumerate(bar):
        loss = loss_of(rows, step / len(plan))
        if not torch.isfinite(loss):
            raise RuntimeError(f"{title}: the loss is {loss.item()} at step {step}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()


def save_checkpoint(model: "PreTrainedModel", folder: Path) -> None:
    """Write `config.json` and `model.safetensors` (float32) without traces of the machine."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.float().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name in ("_name_or_path", "transformers_version"):
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
