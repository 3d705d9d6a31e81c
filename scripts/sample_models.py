"""The two sample checkpoints: their training rows, geometry, losses and files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from albert_deploy.scripts import sample_questions, sample_reviews
from albert_deploy.scripts.sample_questions import Page
from albert_deploy.scripts.sample_reviews import Review
from albert_deploy.scripts.sample_scoring import cut_windows
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

REVIEW_LENGTH: Final = 128
QUESTION_LENGTH: Final = 256
QUESTION_STRIDE: Final = 64
DEV_REVIEWS: Final = 800
DEV_QUESTIONS: Final = 600
TRAIN_REVIEWS: Final = 80_000
TRAIN_QUESTIONS: Final = 24_000
EASY_QUESTIONS: Final = 24_000
PIECES: Final = 2_000
VOCABULARY_REVIEWS: Final = 20_000
VOCABULARY_QUESTIONS: Final = 12_000
REVIEW_RECIPE: Final = Recipe(
    steps=5_000, batch_rows=32, learning_rate=1e-3, first_cap=10, last_cap=60, bend=1.5
)
QUESTION_RECIPE: Final = Recipe(
    steps=3_000, batch_rows=32, learning_rate=1e-3, first_cap=36, last_cap=200, bend=1.3
)


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


def review_rows() -> tuple[list[Review], list[Review]]:
    """Generate all training reviews and the dev reviews."""
    dev = sample_reviews.generate(DEV_REVIEWS, seed=2, held_out=True)
    taken = frozenset(row.text for row in dev)
    return sample_reviews.generate(TRAIN_REVIEWS, seed=1, held_out=False, exclude=taken), dev


def question_pages() -> tuple[list[Page], list[Page], list[Page]]:
    """Generate the training questions, easier ones to begin with, and the dev questions."""
    dev = sample_questions.generate(
        DEV_QUESTIONS, seed=12, held_out=True, most_answers=3, long_share=0.08
    )
    taken = frozenset(page.paragraph.text for page in dev)
    train = sample_questions.generate(
        TRAIN_QUESTIONS, seed=11, held_out=False, most_answers=1, long_share=0.05, exclude=taken
    )
    easy = sample_questions.generate(
        EASY_QUESTIONS,
        seed=13,
        held_out=False,
        most_answers=1,
        long_share=0.0,
        easy=True,
        exclude=taken,
    )
    return train, easy, dev


def _inside(offset: tuple[int, int] | None, spans: Sequence[tuple[int, int]]) -> int:
    """Return 1 for a token within one of the spans, else 0."""
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
        for window in cut_windows(
            tokenizer, question.text, told.text, length=QUESTION_LENGTH, stride=QUESTION_STRIDE
        ):
            inside = [
                i for i, o in enumerate(window.offsets) if _inside(o, [(begin, begin + len(text))])
            ]
            spans = [o for o in window.offsets if o is not None]
            whole = spans[0][0] <= begin and begin + len(text) <= spans[-1][1]
            rows.append(
                QuestionRow(
                    ids=window.ids,
                    type_ids=window.type_ids,
                    first=inside[0] if whole else 0,
                    last=inside[-1] if whole else 0,
                    about=tuple(_inside(o, about) for o in window.offsets),
                    same=tuple(_inside(o, same) for o in window.offsets),
                )
            )
    return rows


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
        max_position_embeddings=REVIEW_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        initializer_range=0.05,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
        problem_type="single_label_classification",
    )


def question_config(pieces: int) -> "AlbertConfig":
    """Describe the reader: 4 uses of one layer, the exact GELU."""
    from transformers import AlbertConfig

    return AlbertConfig(
        vocab_size=pieces,
        embedding_size=64,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_act="gelu",
        max_position_embeddings=QUESTION_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        initializer_range=0.05,
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
    config = question_config(tokenizer.get_vocab_size())
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


def vocabulary_texts() -> list[str]:
    """Generate the text both vocabularies are learned from; either grammar alone is too small."""
    reviews = sample_reviews.generate(VOCABULARY_REVIEWS, seed=1, held_out=False)
    pages = sample_questions.generate(
        VOCABULARY_QUESTIONS, seed=11, held_out=False, most_answers=1, long_share=0.05
    )
    questions = [question.text for page in pages for question in page.questions]
    return [*(r.text for r in reviews), *(page.paragraph.text for page in pages), *questions]


def save_checkpoint(model: "PreTrainedModel", folder: Path) -> None:
    """Write `config.json` and `model.safetensors` (float32) without traces of the machine."""
    model.float().save_pretrained(folder)
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name in ("_name_or_path", "transformers_version"):
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
