"""The sample classifier: review rows, geometry and training of an SST-2 style checkpoint."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from albert_deploy.scripts import sample_reviews
from albert_deploy.scripts.sample_reviews import Review
from albert_deploy.scripts.sample_training import (
    Recipe,
    graded_batches,
    make_repeatable,
    optimize,
    padded,
    prepare_weights,
)

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding, Tokenizer
    from transformers import AlbertConfig, PreTrainedModel

LENGTH: Final = 128
DEV_REVIEWS: Final = 800
TRAIN_REVIEWS: Final = 80_000
RECIPE: Final = Recipe(
    steps=7_000, batch_rows=32, learning_rate=1e-3, first_cap=10, last_cap=60, bend=1.5
)


def review_rows(count: int = TRAIN_REVIEWS) -> tuple[list[Review], list[Review]]:
    """Generate training reviews and the dev reviews.

    The rows before the last few do not depend on `count`.
    """
    dev = sample_reviews.generate(DEV_REVIEWS, seed=2, held_out=True)
    taken = frozenset(row.text for row in dev)
    return sample_reviews.generate(count, seed=1, held_out=False, exclude=taken), dev


def review_config(pieces: int) -> "AlbertConfig":
    """Describe the classifier: 12 uses of one layer, the tanh form of GELU."""
    from transformers import AlbertConfig

    return AlbertConfig(
        vocab_size=pieces,
        embedding_size=64,
        hidden_size=128,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_act="gelu_new",
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        initializer_range=0.05,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
        problem_type="single_label_classification",
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

    make_repeatable(RECIPE.seed)
    config = review_config(tokenizer.get_vocab_size())
    depth, activation = config.num_hidden_layers, config.hidden_act
    # One fused kernel that computes the same function, several times faster.
    config.hidden_act = "gelu_pytorch_tanh"
    model = AlbertForSequenceClassification(config)
    prepare_weights(model, matching=1.5, waves=0.07)
    helper = torch.nn.Linear(config.hidden_size, 3)
    encoded = tokenizer.encode_batch([row.text for row in rows])
    signs = [clause_labels(e, row) for e, row in zip(encoded, rows, strict=True)]
    labels = torch.tensor([row.label for row in rows])
    plan = graded_batches([len(e.ids) for e in encoded], RECIPE, range(len(rows)))
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

    optimize(model, plan, loss_of, RECIPE, title="sst2", extra=helper.parameters())
    model.config.num_hidden_layers, model.config.hidden_act = depth, activation
    return model
