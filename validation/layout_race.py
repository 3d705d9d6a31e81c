"""RACE's layout: a folder for each difficulty, and in it a JSON file for each passage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.dataset_table import Dataset
from albert_deploy.validation.examples import ChoiceRow
from albert_deploy.validation.files import Bad, json_field, read_text

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
