"""A coverage-guided fuzzer of the way from a text to its answer, for atheris.

    python tests/runtime/fuzz_target.py FOLDER [--plant] [libFuzzer's options]

FOLDER holds a deployment directory for each task, named as the task. ``--plant`` puts a fault in,
to see that it is found.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
with atheris.instrument_imports(include=["albert_deploy"]):
    from fuzz_answers import check, same
    from fuzz_models import stand_in

    from albert_deploy.runtime import inputs, load, pipeline
    from albert_deploy.runtime.contract import TASKS

TEXT = ("truncation", "max_length")
NUMBERS = (None, 1, 2, 3, 5, 8, 12, 64)
OPTIONS: dict[str, tuple[str, ...]] = {
    "feature-extraction": (*TEXT, "pooled"),
    "pretraining": (*TEXT, "top_k"),
    "fill-mask": (*TEXT, "top_k"),
    "text-classification": (*TEXT, "top_k", "function_to_apply"),
    "multiple-choice": ("max_length",),
    "token-classification": (*TEXT, "aggregation_strategy", "ignore_labels", "stride"),
    "question-answering": (
        "top_k", "max_seq_len", "doc_stride", "max_question_len", "max_answer_len",
        "handle_impossible_answer", "align_to_words",
    ),
}  # fmt: skip
VALUES: dict[str, tuple[Any, ...]] = {
    "truncation": (False, True),
    "pooled": (False, True),
    "handle_impossible_answer": (False, True),
    "align_to_words": (False, True),
    "function_to_apply": (None, "softmax", "sigmoid", "none"),
    "aggregation_strategy": ("none", "simple", "first", "average", "max"),
    "ignore_labels": ((), ("O",)),
    "max_question_len": (1, 8, 64),
    "max_answer_len": (1, 3, 15),
}
PIECES = ("[MASK]", "[CLS]", "[SEP]", "<unk>", "film ", "\x00", "İ", "a\u0301", "▁", " ", "x" * 99)


def text(data: Any) -> str:
    found = []
    for _ in range(data.ConsumeIntInRange(0, 4)):
        if data.ConsumeBool():
            found.append(PIECES[data.ConsumeIntInRange(0, len(PIECES) - 1)])
        else:
            found.append(data.ConsumeUnicode(data.ConsumeIntInRange(0, 24)))
    return "".join(found)


def asked(task: str, data: Any) -> Any:
    if data.ConsumeIntInRange(0, 9) == 0:
        odd = (None, 3, [], {}, b"x", {"text": None}, {"choices": [text(data)]}, [text(data)])
        return odd[data.ConsumeIntInRange(0, len(odd) - 1)]
    if task == "question-answering":
        return {"question": text(data), "context": text(data)}
    if task == "multiple-choice":
        choices = [text(data) for _ in range(data.ConsumeIntInRange(0, 3))]
        return {"context": text(data), "choices": choices, "question": text(data)}
    if task == "fill-mask":
        return f"{text(data)}[MASK]{text(data)}"
    pair = task != "token-classification" and data.ConsumeBool()
    return (text(data), text(data)) if pair else text(data)


def one_input(raw: bytes, models: list[Any]) -> None:
    """Ask one of the models what the bytes say, twice, and check both answers."""
    data = atheris.FuzzedDataProvider(raw)
    model = models[data.ConsumeIntInRange(0, len(models) - 1)]
    options: dict[str, Any] = {}
    for name in OPTIONS[model.task]:
        if data.ConsumeBool():
            values = VALUES.get(name, NUMBERS)
            options[name] = values[data.ConsumeIntInRange(0, len(values) - 1)]
    if options.get("aggregation_strategy", "none") == "none":
        options.pop("stride", None)  # nothing to join: an error of the call, not of a text
    questions = [asked(model.task, data) for _ in range(data.ConsumeIntInRange(1, 3))]
    found = list(model.stream(questions, skip_bad=True, batch_size=2, **options))
    assert len(found) == len(questions)
    tokenizer = model._info.tokenizer
    for number, (one, answer) in enumerate(zip(questions, found, strict=True), 1):
        if check(model.task, one, answer, f"text {number}", options, tokenizer) == "answer":
            (alone,) = model.stream([one], skip_bad=True, batch_size=1, **options)
            same(answer, alone)


def plant() -> None:
    real = inputs.item

    def item(task: str, given: Any, *, row: str) -> dict[str, Any]:
        found = real(task, given, row=row)
        if "İ" in str(found):
            raise KeyError("planted: a text with a dotted capital i")
        return found

    pipeline.item = item  # type: ignore[attr-defined]


def main() -> None:
    flags = sys.argv[2:]
    if "--plant" in flags:
        flags.remove("--plant")
        plant()
    folder = Path(sys.argv[1])
    models = [load(folder / task, threads=1) for task in TASKS] + [stand_in(task) for task in TASKS]
    atheris.Setup([sys.argv[0], *flags], lambda raw: one_input(raw, models))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
