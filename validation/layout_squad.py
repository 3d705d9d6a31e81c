"""SQuAD's layout, v1.1 and v2.0: articles, paragraphs and their questions in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.dataset_table import Dataset
from albert_deploy.validation.examples import QuestionRow
from albert_deploy.validation.files import Bad, json_field, read_text


def squad_rows(dataset: Dataset, file: Path) -> Iterator[QuestionRow | Bad]:
    """Read a SQuAD file, question by question.

    A paragraph or article that is malformed as a whole counts as one row.

    Args:
        dataset: ``squad``, where every question has an answer, or ``squad_v2``.
        file: The file.

    Yields:
        A row, or why one cannot be used.

    Raises:
        InputError: The file cannot be read or is not JSON in this layout.
    """
    official = dataset.files["dev"]
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}; use SQuAD's {official}") from None
    unanswerable = "NoAns_exact" in dataset.metrics
    layout = f"SQuAD's {'v2.0' if unanswerable else 'v1.1'} layout"
    seen: set[str] = set()
    for found in _questions(value, str(file), layout):
        if isinstance(found, Bad):
            yield found
            continue
        where, context, question = found
        try:
            row = _row(question, context, where, layout, unanswerable=unanswerable)
            if row.id in seen:
                raise InputError(
                    f"{where}: id {row.id!r} is there twice; remove one of the questions"
                )
        except InputError as error:
            yield Bad(str(error))
            continue
        seen.add(row.id)
        yield row


def _row(
    question: object, context: str, where: str, layout: str, *, unanswerable: bool
) -> QuestionRow:
    row_id = json_field(question, "id", str, where, layout)
    answers = tuple(
        json_field(answer, "text", str, f"{where}.answers[{index}]", layout)
        for index, answer in enumerate(json_field(question, "answers", list, where, layout))
    )
    if not answers and not unanswerable:
        raise InputError(
            f"{where}: question {row_id} has no answers, wanted at least one; "
            "use SQuAD v1.1, where every question has some, or give this file as squad_v2"
        )
    impossible = question.get("is_impossible") if isinstance(question, dict) else None
    if unanswerable and impossible is not None and impossible is not (not answers):
        raise InputError(
            f"{where}: 'is_impossible' of {row_id} is {impossible!r} and it has {len(answers)} "
            "answers; correct or remove the question"
        )
    for answer in answers:
        if answer not in context:
            raise InputError(
                f"{where}: {answer[:80]!r}, an answer to {row_id}, is not in its context; "
                "correct or remove the question"
            )
    return QuestionRow(
        id=row_id,
        question=json_field(question, "question", str, where, layout),
        context=context,
        answers=answers,
    )


def _questions(value: object, file: str, layout: str) -> Iterator[tuple[str, str, object] | Bad]:
    """Yield the place, the context and the record of each question of a SQuAD file."""
    for i, article in enumerate(json_field(value, "data", list, file, layout)):
        place = f"{file}, data[{i}]"
        try:
            paragraphs = json_field(article, "paragraphs", list, place, layout)
        except InputError as error:
            yield Bad(str(error))
            continue
        for j, paragraph in enumerate(paragraphs):
            where = f"{place}.paragraphs[{j}]"
            try:
                context = json_field(paragraph, "context", str, where, layout)
                questions = json_field(paragraph, "qas", list, where, layout)
            except InputError as error:
                yield Bad(str(error))
                continue
            for k, question in enumerate(questions):
                yield f"{where}.qas[{k}]", context, question
