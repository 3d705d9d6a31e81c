"""SQuAD's layout, v1.1 and v2.0: articles, paragraphs and their questions in one JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.layouts import Bad, json_field, read_text
from albert_deploy.validation.data.rows import ChoiceRow, QuestionRow
from albert_deploy.validation.data.table import Dataset


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


GROUPS = ("middle", "high")
LETTERS = "ABCD"
LAYOUT = "RACE's layout"


def race_rows(dataset: Dataset, file: Path) -> Iterator[ChoiceRow | Bad]:
    """Read a split of RACE, question by question; passages are in the order of their numbers.

    Args:
        dataset: The row of the table.
        file: Folder of the split, with ``middle``, ``high`` or both.

    Yields:
        A row, whose id is such as ``high/1024-0``, or why a question or passage cannot be used.

    Raises:
        InputError: There is no such folder.
    """
    folders = {group: file / group for group in GROUPS if (file / group).is_dir()}
    if not folders:
        raise InputError(
            f"{file} has no folder {' or '.join(GROUPS)}; give the folder of RACE that holds "
            f"{dataset.files['dev']}/{GROUPS[0]}/*.txt"
        )
    for group, folder in folders.items():
        for path in sorted(folder.glob("*.txt"), key=_number):
            yield from _passage(path, group)


def _number(path: Path) -> tuple[int, str]:
    digits = re.search(r"\d+", path.stem)
    return (int(digits.group()) if digits else 0, path.name)


def _passage(path: Path, group: str) -> Iterator[ChoiceRow | Bad]:
    try:
        value = json.loads(read_text(path))
        article = json_field(value, "article", str, str(path), LAYOUT)
        questions, options, answers = (
            json_field(value, key, list, str(path), LAYOUT)
            for key in ("questions", "options", "answers")
        )
        if not len(questions) == len(options) == len(answers):
            raise InputError(
                f"{path}: {len(questions)} questions, {len(options)} options and {len(answers)} "
                "answers, wanted as many of each; correct or remove the file"
            )
    except InputError as error:
        yield Bad(str(error))
        return
    except (ValueError, RecursionError) as error:
        yield Bad(f"{path} is not JSON: {error}; correct or remove the file")
        return
    for index, (question, choices, answer) in enumerate(
        zip(questions, options, answers, strict=True)
    ):
        yield choice_row(
            where=f"{path}, questions[{index}]",
            row_id=f"{group}/{path.stem}-{index}",
            group=group,
            texts=(article, question),
            choices=choices,
            answer=answer,
        )


def choice_row(
    *,
    where: str,
    row_id: str,
    group: str,
    texts: tuple[object, object],
    choices: object,
    answer: object,
) -> ChoiceRow | Bad:
    """Check a question and return its row.

    Args:
        where: How an error names it.
        row_id: Its id.
        group: ``middle`` or ``high``.
        texts: Passage and question.
        choices: The four options.
        answer: Letter of the right one.
    """
    context, question = texts
    if not isinstance(context, str) or not context.strip():
        return Bad(f"{where}: the article is {context!r:.80}, wanted text; correct or remove it")
    if not isinstance(question, str) or not question.strip():
        return Bad(f"{where} is {question!r:.80}, wanted text; correct or remove the question")
    if (
        not isinstance(choices, list)
        or len(choices) != len(LETTERS)
        or not all(isinstance(choice, str) and choice.strip() for choice in choices)
    ):
        return Bad(
            f"{where}: the options are {choices!r:.80}, wanted {len(LETTERS)} texts; "
            "correct or remove the question"
        )
    if not isinstance(answer, str) or len(answer) != 1 or answer not in LETTERS:
        return Bad(
            f"{where}: the answer is {answer!r:.80}, wanted {', '.join(LETTERS)}; "
            "correct or remove the question"
        )
    return ChoiceRow(
        id=row_id,
        context=context,
        question=question,
        choices=tuple(choices),
        label=LETTERS.index(answer),
        group=group,
    )
