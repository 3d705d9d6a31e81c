"""The sample reader: question rows, geometry and training of a SQuAD style checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from albert_deploy.runtime.tasks.tokenize import windows
from albert_deploy.scripts import sample_questions
from albert_deploy.scripts.sample_questions import Page
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
    from tokenizers import Tokenizer
    from transformers import AlbertConfig, PreTrainedModel

LENGTH: Final = 256
# The windows that validation cuts for a model of this length; other ones train other weights.
STRIDE: Final = 64
QUERY_LENGTH: Final = 64
DEV_QUESTIONS: Final = 600
TRAIN_QUESTIONS: Final = 24_000
EASY_QUESTIONS: Final = 24_000
RECIPE: Final = Recipe(
    steps=2_800,
    batch_rows=32,
    learning_rate=1.5e-3,
    first_cap=36,
    last_cap=190,
    bend=1.4,
    graded=0.92,
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


def question_pages(
    count: int = TRAIN_QUESTIONS, easy_count: int = EASY_QUESTIONS
) -> tuple[list[Page], list[Page], list[Page]]:
    """Generate the training questions, easier ones to begin with, and the dev questions.

    Pages before the last one do not depend on the counts.
    """
    dev = sample_questions.generate(
        DEV_QUESTIONS, seed=12, held_out=True, most_answers=3, long_share=0.08
    )
    taken = frozenset(page.paragraph.text for page in dev)
    train = sample_questions.generate(
        count, seed=11, held_out=False, most_answers=1, long_share=0.05, exclude=taken
    )
    easy = sample_questions.generate(
        easy_count,
        seed=13,
        held_out=False,
        most_answers=1,
        long_share=0.0,
        easy=True,
        exclude=taken,
    )
    return train, easy, dev


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
            max_length=LENGTH,
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
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        initializer_range=0.05,
    )


def train_questions(
    tokenizer: "Tokenizer", train: Sequence[Page], easy: Sequence[Page]
) -> "PreTrainedModel":
    """Train the reader on windows of growing length.

    While it learns, a second head, dropped afterwards, tells which words concern the subject of
    the question and which would answer it for some subject.
    """
    import torch
    from transformers import AlbertForQuestionAnswering

    make_repeatable(RECIPE.seed)
    config = question_config(tokenizer.get_vocab_size())
    model = AlbertForQuestionAnswering(config)
    prepare_weights(model, matching=2.0, waves=0.05)
    helper = torch.nn.Linear(config.hidden_size, 2)
    real, simple = question_rows(tokenizer, train), question_rows(tokenizer, easy)
    rows = real + simple
    plan = graded_batches([len(row.ids) for row in rows], RECIPE, range(len(real)))
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

    optimize(model, plan, loss_of, RECIPE, title="squad", extra=helper.parameters())
    return model
