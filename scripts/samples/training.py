"""Geometry and training of the sample checkpoints on one CPU thread, the same in every run."""

import bisect
import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from albert_deploy.runtime.tasks.tokenize import windows
from albert_deploy.scripts.samples.paragraphs import Page
from albert_deploy.scripts.samples.reviews import Review

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding, Tokenizer
    from transformers import AlbertConfig, PreTrainedModel

REVIEW_LENGTH: Final = 128
QUESTION_LENGTH: Final = 256
# The windows that validation cuts for a model of this length; other ones train other weights.
STRIDE: Final = 64
QUERY_LENGTH: Final = 64
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


REVIEW_RECIPE: Final = Recipe(
    steps=7_000, batch_rows=32, learning_rate=1e-3, first_cap=10, last_cap=60, bend=1.5
)
QUESTION_RECIPE: Final = Recipe(
    steps=2_800,
    batch_rows=32,
    learning_rate=1.5e-3,
    first_cap=36,
    last_cap=190,
    bend=1.4,
    graded=0.92,
)


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


def albert_config(pieces: int, **settings: Any) -> "AlbertConfig":
    """Describe a small ALBERT without dropout whose one layer is used several times."""
    from transformers import AlbertConfig

    return AlbertConfig(
        vocab_size=pieces,
        embedding_size=64,
        hidden_size=128,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        initializer_range=0.05,
        **settings,
    )


def clause_labels(encoding: "Encoding", row: Review) -> list[int]:
    """Label tokens by the clause they stand in: 1 negative, 2 positive, 0 none, -100 not known."""
    if not row.spans:
        return [-100] * len(encoding.ids)
    labels = [0] * len(encoding.ids)
    for begin, end, sign in row.spans:
        for i, (first, last) in enumerate(encoding.offsets):
            if begin <= first < last <= end:
                labels[i] = 1 if sign < 0 else 2
    return labels


def train_reviews(tokenizer: "Tokenizer", rows: Sequence[Review]) -> "PreTrainedModel":
    """Train the classifier; the layer is repeated 3 times at first and 12 times at the end.

    While it learns, a second head, dropped afterwards, tells the sign of every word's clause.
    """
    import torch
    from transformers import AlbertForSequenceClassification

    make_repeatable(REVIEW_RECIPE.seed)
    config = albert_config(
        tokenizer.get_vocab_size(),
        num_hidden_layers=12,
        hidden_act="gelu_new",
        max_position_embeddings=REVIEW_LENGTH,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
        problem_type="single_label_classification",
    )
    depth, activation = config.num_hidden_layers, config.hidden_act
    # One fused kernel that computes the same function, several times faster.
    config.hidden_act = "gelu_pytorch_tanh"
    model = AlbertForSequenceClassification(config)
    prepare_weights(model, matching=1.5, waves=0.07)
    helper = torch.nn.Linear(config.hidden_size, 3)
    encoded = tokenizer.encode_batch([row.text for row in rows])
    signs = [clause_labels(e, row) for e, row in zip(encoded, rows, strict=True)]
    labels = torch.tensor([row.label for row in rows])
    plan = graded_batches([len(e.ids) for e in encoded], REVIEW_RECIPE, range(len(rows)))
    wrong = torch.nn.functional.cross_entropy

    def loss_of(chosen: Sequence[int], share: float) -> "torch.Tensor":
        model.config.num_hidden_layers = 3 if share < 0.8 else 6 if share < 0.9 else depth
        ids = padded([encoded[i].ids for i in chosen])
        hidden = model.albert(ids, attention_mask=(ids != 0).long())
        loss = wrong(model.classifier(hidden.pooler_output), labels[list(chosen)])
        told = padded([signs[i] for i in chosen], -100).flatten()
        if (told >= 0).any():
            loss = loss + wrong(helper(hidden.last_hidden_state).flatten(0, 1), told)
        return loss

    optimize(model, plan, loss_of, REVIEW_RECIPE, title="sst2", extra=helper.parameters())
    model.config.num_hidden_layers, model.config.hidden_act = depth, activation
    return model


@dataclass(frozen=True, kw_only=True)
class QuestionRow:
    """Ids of one window with the first and last token of its answer, 0 where it has none.

    `about` is 1 on tokens of sentences about the subject asked for, `same` is 1 on answers to the
    same question about any subject.
    """

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    first: int
    last: int
    about: tuple[int, ...]
    same: tuple[int, ...]


def _inside(offset: tuple[int, int] | None, spans: Sequence[tuple[int, int]]) -> int:
    """Return 1 for a context token within one of the spans, else 0."""
    return int(offset is not None and any(b < offset[1] and offset[0] < e for b, e in spans))


def question_rows(tokenizer: "Tokenizer", pages: Sequence[Page]) -> list[QuestionRow]:
    """Cut every question into windows labelled with its first answer and with hints."""
    rows: list[QuestionRow] = []
    for page, question in ((p, q) for p in pages for q in p.questions):
        told, fact = page.paragraph, question.fact
        about = [(b, e) for b, e, subject in told.sentences if subject == fact.subject]
        lower = told.text.lower()
        same = [
            (lower.index(f.answer.lower()), lower.index(f.answer.lower()) + len(f.answer))
            for f in told.facts
            if f.relation == fact.relation
        ]
        text, begin = question.answers[0]
        for window in windows(
            tokenizer,
            question.text,
            told.text,
            max_length=QUESTION_LENGTH,
            stride=STRIDE,
            max_query_length=QUERY_LENGTH,
        ):
            offsets = [
                (b, e) if known else None
                for (b, e), known in zip(
                    window.offsets.tolist(), window.is_context.tolist(), strict=True
                )
            ]
            inside = [i for i, o in enumerate(offsets) if _inside(o, [(begin, begin + len(text))])]
            spans = [o for o in offsets if o is not None]
            whole = spans[0][0] <= begin and begin + len(text) <= spans[-1][1]
            rows.append(
                QuestionRow(
                    ids=tuple(window.feeds["input_ids"][0].tolist()),
                    type_ids=tuple(window.feeds["token_type_ids"][0].tolist()),
                    first=inside[0] if whole else 0,
                    last=inside[-1] if whole else 0,
                    about=tuple(_inside(o, about) for o in offsets),
                    same=tuple(_inside(o, same) for o in offsets),
                )
            )
    return rows


def train_questions(
    tokenizer: "Tokenizer", train: Sequence[Page], easy: Sequence[Page]
) -> "PreTrainedModel":
    """Train the reader on windows of growing length.

    While it learns, a second head, dropped afterwards, tells which words concern the subject of
    the question and which would answer it for some subject.
    """
    import torch
    from transformers import AlbertForQuestionAnswering

    make_repeatable(QUESTION_RECIPE.seed)
    config = albert_config(
        tokenizer.get_vocab_size(),
        num_hidden_layers=4,
        hidden_act="gelu",
        max_position_embeddings=QUESTION_LENGTH,
    )
    model = AlbertForQuestionAnswering(config)
    prepare_weights(model, matching=2.0, waves=0.05)
    helper = torch.nn.Linear(config.hidden_size, 2)
    real, simple = question_rows(tokenizer, train), question_rows(tokenizer, easy)
    rows = real + simple
    plan = graded_batches([len(row.ids) for row in rows], QUESTION_RECIPE, range(len(real)))
    wrong = torch.nn.functional.cross_entropy
    rarity = torch.tensor([1.0, 4.0])
    missed = torch.nn.functional.binary_cross_entropy_with_logits

    def loss_of(chosen: Sequence[int], _share: float) -> "torch.Tensor":
        ids = padded([rows[i].ids for i in chosen])
        types = padded([rows[i].type_ids for i in chosen])
        hidden = model.albert(
            ids, attention_mask=(ids != 0).long(), token_type_ids=types
        ).last_hidden_state
        edges = model.qa_outputs(hidden).masked_fill((ids == 0)[..., None], -1e4)
        firsts = torch.tensor([rows[i].first for i in chosen])
        lasts = torch.tensor([rows[i].last for i in chosen])
        hints = torch.stack(
            [padded([rows[i].about for i in chosen]), padded([rows[i].same for i in chosen])], -1
        )
        real = types == 1
        told = missed(helper(hidden)[real], hints[real].float(), pos_weight=rarity)
        return (wrong(edges[..., 0], firsts) + wrong(edges[..., 1], lasts)) / 2 + told

    optimize(model, plan, loss_of, QUESTION_RECIPE, title="squad", extra=helper.parameters())
    return model


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
