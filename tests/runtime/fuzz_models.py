"""Models that answer at once: ALBERT's kind of tokenizer and a stand-in for the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from models import TAGS

from albert_deploy.runtime.contract import BATCH, CHOICES, SEQUENCE, TASKS
from albert_deploy.runtime.pipeline import Model
from albert_deploy.runtime.tasks.head import TaskInfo
from albert_deploy.runtime.tasks.tokenize import load_tokenizer

SAMPLE = Path(__file__).resolve().parents[2] / "export" / "samples" / "sst2"
WIDTH = 4


class StandIn:
    """An engine whose logits hang on a row's own tokens alone, or are whatever it is given."""

    engine = "ort"

    def __init__(self, task: str, vocabulary: int, values: tuple[float, ...] = ()) -> None:
        self.outputs = tuple(output.name for output in TASKS[task].outputs)
        self._rows = TASKS[task].outputs
        self._vocabulary = vocabulary
        self._values = values

    def run(self, feeds: Any) -> dict[str, Any]:
        ids = np.where(feeds["attention_mask"] > 0, feeds["input_ids"], 0)
        found = {}
        for number, output in enumerate(self._rows, 1):
            place = np.arange(1, ids.shape[-1] + 1)
            values = np.sin(ids * 0.37 * number + place * 0.011) * (ids > 0)
            if SEQUENCE not in output.axes:
                values = values.sum(-1)
            for axis in output.axes:
                if axis not in (BATCH, CHOICES, SEQUENCE):
                    size = self._vocabulary if axis == "<vocab>" else WIDTH
                    size = axis if isinstance(axis, int) else size
                    values = values[..., np.newaxis] * np.cos(np.arange(size) + number)
            if self._values:
                values = np.resize(np.array(self._values, np.float32), values.shape)
            found[output.name] = values.astype(np.float32)
        return found

    def close(self) -> None:
        pass


def stand_in(task: str, values: tuple[float, ...] = (), problem_type: str | None = None) -> Model:
    """Return a model of a task with the shipped sample's tokenizer and no weights.

    Args:
        task: Key of ``TASKS``.
        values: Repeated to fill every output; none for outputs that hang on the tokens.
        problem_type: As in a configuration.
    """
    tokenizer = load_tokenizer(SAMPLE)
    engine = StandIn(task, tokenizer.get_vocab_size(), values)
    info = TaskInfo(
        task=task,
        family="albert",
        tokenizer=tokenizer,
        labels=TAGS if task in ("text-classification", "token-classification") else (),
        problem_type=problem_type,
        outputs=engine.outputs,
        max_length=64,
        pad_id=0,
        settings=json.loads((SAMPLE / "tokenizer_config.json").read_text(encoding="utf-8")),
    )
    ranked = CHOICES in TASKS[task].input_axes
    return Model(engine, info, variant="fp32", ranked=ranked)  # type: ignore[arg-type]
