"""The work of served models, whatever server calls them: requests to answers, or a part of that.

One model may do it all (``answer_requests``), or three: texts to tokens (``tokens_of``), a network
of any kind, and its outputs to answers (``answers_from``). The last one tokenizes again, so that
nothing has to be kept between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from albert_deploy.runtime.batching import kept_outputs
from albert_deploy.runtime.errors import AlbertDeployError, InputError
from albert_deploy.runtime.options import Options
from albert_deploy.runtime.pipeline import Model
from albert_deploy.runtime.serving.settings import Settings
from albert_deploy.runtime.serving.wire import (
    Array,
    Request,
    read_items,
    read_options,
    row_names,
    write_answers,
)
from albert_deploy.runtime.session import Feeds, Outputs
from albert_deploy.runtime.tasks.head import Encoded, TaskInfo
from albert_deploy.runtime.tasks.heads import HEADS
from albert_deploy.runtime.tasks.tokenize import stack

_Encode = Callable[[dict[str, Any], Options, str], Encoded]


def answer_requests(
    model: Model, requests: Sequence[Request], settings: Settings
) -> list[Array | AlbertDeployError]:
    """Answer requests together, so that their texts share batches.

    Args:
        model: Open model.
        requests: Of any number of texts each.
        settings: Limits.

    Returns:
        For each request its answers as JSON, bytes [inputs, 1], or why it has none. A request is
        answered as a whole or not at all, and never spoils another one.

    Raises:
        ContractError: Outputs are NaN or infinite: no request of these has an answer.
    """
    tried: list[list[Encoded] | AlbertDeployError] = []
    for request in requests:
        try:
            tried.append(_encoded(model.task, request, settings, model.encode))
        except InputError as error:
            tried.append(error)
    rows = [
        replace(one, answer=partial(_attempt, one.answer))
        for mine in tried
        if isinstance(mine, list)
        for one in mine
    ]
    answers = model.run(rows, batch_size=settings.batch_size)
    return [
        mine if isinstance(mine, AlbertDeployError) else _whole([next(answers) for _ in mine])
        for mine in tried
    ]


def tokens_of(info: TaskInfo, request: Request, settings: Settings, *, ranked: bool) -> Feeds:
    """Tokenize a request.

    Args:
        info: Of the deployment directory.
        request: What came.
        settings: Limits, and the lengths to pad to.
        ranked: The network has an axis of choices.

    Returns:
        Inputs of the network, int64 [rows, sequence] or [rows, choices, sequence].

    Raises:
        InputError: The request cannot be used, makes too many rows, or is too long.
    """
    feeds = [row for one in _of(info, request, settings) for row in one.rows]
    if not feeds:
        raise InputError("the request makes no row of tokens; give some text")
    choices = len(feeds[0]["input_ids"])
    joined = stack(feeds, info.pad_id)
    longest = joined["input_ids"].shape[1]
    length = next((n for n in settings.lengths if n >= longest), None)
    if settings.lengths and length is None:
        raise InputError(
            f"the request has {longest} tokens, the network takes {settings.lengths[-1]}"
        )
    padding = dict.fromkeys(joined, 0) | {"input_ids": info.pad_id}
    made = {
        name: np.pad(
            value, ((0, 0), (0, (length or longest) - longest)), constant_values=padding[name]
        )
        for name, value in joined.items()
    }
    return {n: v.reshape(-1, choices, v.shape[1]) for n, v in made.items()} if ranked else made


def answers_from(
    info: TaskInfo, request: Request, outputs: Mapping[str, Array], settings: Settings
) -> Array:
    """Make the answers of a request from what the network gave for its tokens.

    Args:
        info: Of the deployment directory.
        request: The same that ``tokens_of`` took.
        outputs: Of the network, float32 or float16, each with a row for every row of tokens.
        settings: The same that ``tokens_of`` took.

    Returns:
        Answers as JSON, bytes [inputs, 1].

    Raises:
        InputError: The request cannot be used, or the outputs are those of another one.
        ContractError: Outputs are NaN or infinite.
    """
    encoded = _of(info, request, settings)
    count = sum(len(one.rows) for one in encoded)
    for name, value in outputs.items():
        if len(value) != count:
            raise InputError(f"{name} has {len(value)} rows, the request {count}; ask again")
    row, answers = 0, []
    for one in encoded:
        kept: list[Outputs] = []
        for feeds in one.rows:
            mine = {name: np.asarray(value[row], np.float32) for name, value in outputs.items()}
            kept.append(kept_outputs(one, mine, feeds))
            row += 1
        answers.append(one.answer(kept))
    return write_answers(answers)


def _of(info: TaskInfo, request: Request, settings: Settings) -> list[Encoded]:
    head = HEADS[info.task]
    return _encoded(info.task, request, settings, partial(head.encode, info))


def _encoded(task: str, request: Request, settings: Settings, encode: _Encode) -> list[Encoded]:
    options = read_options(task, request.parameters, settings)
    items = read_items(task, request, settings)
    names = row_names(len(items))
    made = [encode(one, options, row) for one, row in zip(items, names, strict=True)]
    count = sum(len(one.rows) for one in made)
    if count > settings.max_rows:
        raise InputError(
            f"the request makes {count} rows of tokens, {settings.max_rows} at most; give fewer or "
            "shorter texts at a time"
        )
    return made


def _attempt(answer: Callable[[list[Outputs]], Any], rows: list[Outputs]) -> Any:
    try:
        return answer(rows)
    except InputError as error:
        return error


def _whole(answers: list[Any]) -> Array | AlbertDeployError:
    bad = next((one for one in answers if isinstance(one, AlbertDeployError)), None)
    return write_answers(answers) if bad is None else bad
