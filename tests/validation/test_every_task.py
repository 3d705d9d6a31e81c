"""Every task with data of its own goes through the source and a variant, in batches or not."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models import TAGS, tagged

from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.contract import TASKS
from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.session import Session
from albert_deploy.runtime.tasks.tokenize import load_tokenizer
from albert_deploy.validation.evaluate.batches import BatchConfig
from albert_deploy.validation.evaluate.evaluate import EvaluateConfig, Storage, decisions, evaluate
from albert_deploy.validation.evaluate.evidence import Evidence
from albert_deploy.validation.evaluate.reference import open_reference
from albert_deploy.validation.evaluate.workers import SOURCE

pytestmark = pytest.mark.medium

TEXTS = ("the film was long", "a warm river", "who was it", "what is the film", "the warm film")


@pytest.fixture(scope="module")
def deployed(make_export: Callable[..., Path]) -> Callable[..., Path]:
    @functools.cache
    def make(task: str) -> Path:
        out = make_export(task, max_position_embeddings=32, **tagged(task))
        quantize(out, QuantizeConfig(variants=("int8",)))
        return out

    return make


def squad(folder: Path, *, version: str = "1.1") -> Path:
    context = "the river was long and warm. a film of the river is in Paris, not in London!"
    answers = [{"text": "Paris", "answer_start": context.index("Paris")}]
    asked = [("q1", "where is it", answers), ("q2", "who", answers), ("q3", "what was", [])]
    qas = [{"id": i, "question": q, "answers": a} for i, q, a in asked if a or version == "2.0"]
    file = folder / f"dev-v{version}.json"
    data = [{"paragraphs": [{"context": context, "qas": qas}]}]
    file.write_text(json.dumps({"data": data}))
    return file


def race(folder: Path) -> Path:
    part = folder / "dev" / "high"
    part.mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        options = [["film", "river", "warm", "long"]] * 2
        record = {
            "id": f"high{number}.txt",
            "article": f"{text}. " * 6,
            "questions": ["what is it", "who was _ ?"],
            "options": options,
            "answers": ["A", "C"],
        }
        (part / f"{number}.txt").write_text(json.dumps(record))
    return folder


def columns(folder: Path) -> Path:
    file = folder / "valid.txt"
    lines = [f"{word} NN O {TAGS[i % 4]}" for i, word in enumerate(("the", "film", "xyz", "a"))]
    file.write_text("-DOCSTART- -X- O O\n\n" + "\n".join([*lines, "", *lines[:2], ""]))
    return file


def plain(folder: Path) -> Path:
    file = folder / "dev.txt"
    file.write_text("\n".join(f"{text}. It is {text}." for text in TEXTS) + "\n")
    return file


def pairs(folder: Path) -> Path:
    file = folder / "dev.tsv"
    both = zip(TEXTS, TEXTS[::-1], strict=True)
    rows = [f"{i}\t{first}\t{second}\tentailment" for i, (first, second) in enumerate(both)]
    file.write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *rows]) + "\n")
    return file


CASES: list[tuple[str, str, Callable[[Path], Path], set[str]]] = [
    ("text-classification", "rte", pairs, {"accuracy"}),
    ("question-answering", "squad", squad, {"exact_match", "f1"}),
    (
        "question-answering",
        "squad_v2",
        lambda folder: squad(folder, version="2.0"),
        {"exact", "f1", "NoAns_exact", "HasAns_exact", "best_exact", "best_f1"},
    ),
    ("multiple-choice", "race", race, {"accuracy", "accuracy_high"}),
    ("token-classification", "conll2003", columns, {"f1"}),
    ("fill-mask", "mlm", plain, {"top1", "top5", "pseudo_perplexity"}),
    ("pretraining", "mlm", plain, {"top1", "top5", "pseudo_perplexity"}),
    ("pretraining", "sop", plain, {"accuracy"}),
]


def run(directory: Path, name: str | None, data: Path, storage: Path, **config: Any) -> Evidence:
    manifest = read_manifest(directory)
    contract, task = manifest["contract"], manifest["task"]
    openers: dict[str, Callable[[], Session]] = {
        SOURCE: functools.partial(open_reference, manifest),
        "fp32": functools.partial(open_session, directory, variant="fp32", threads=1),
        "int8": functools.partial(open_session, directory, variant="int8", threads=1),
    }
    with contextlib.ExitStack() as stack:
        return evaluate(
            {model: stack.enter_context(opener()) for model, opener in openers.items()},
            contract=contract,
            task=task,
            tokenizer=load_tokenizer(directory),
            decide=decisions(contract, task),
            dataset=(name, data) if name else None,
            config=replace(EvaluateConfig(unlabelled_rows=4), **config),
            storage=Storage(reports=storage, models=dict.fromkeys(openers, "x")),
            openers=openers,
        )


@pytest.mark.parametrize(("task", "name", "write", "wanted"), CASES)
def test_a_task_runs_on_its_data_in_batches_as_alone(
    task: str,
    name: str,
    write: Callable[[Path], Path],
    wanted: set[str],
    deployed: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    data = write(tmp_path)
    found = run(deployed(task), name, data, tmp_path / "reports")
    assert found.failures == {}
    assert wanted <= set(found.metrics[SOURCE])
    assert found.metrics["fp32"] == pytest.approx(found.metrics[SOURCE])
    assert all(d.max_abs < 1e-4 for d in found.differences["fp32"].values())
    assert all(d.finite for d in found.differences["int8"].values())
    assert [len(v) for v in found.errors.values()] == [found.rows] * 2
    assert max(found.errors["fp32"]) < 1e-4
    lines = [json.loads(x) for x in gzip.decompress(found.files[0].read_bytes()).splitlines()]
    assert [line["id"] for line in lines] == [row.id for row in found.examples]
    assert all(line["logits"] is not None for line in lines)
    alone = run(deployed(task), name, data, tmp_path / "alone", batch=BatchConfig(rows=1))
    assert same(alone, found)
    for model in found.metrics:
        assert alone.metrics[model] == pytest.approx(found.metrics[model], rel=1e-4)


def same(left: Evidence, right: Evidence) -> bool:
    """Tell whether predictions that hold numbers are the same but for rounding."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 3)
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return bool(plain(left.predictions) == plain(right.predictions))


@pytest.mark.parametrize("task", list(TASKS))
def test_a_task_without_data_runs_on_real_texts(
    task: str, deployed: Callable[[str], Path], tmp_path: Path
) -> None:
    found = run(deployed(task), None, tmp_path, tmp_path / "reports")
    assert found.rows == 4
    assert found.predictions == found.metrics == found.failures == {}
    assert found.files == []
    assert all(0 < d.max_abs < 1e-4 for d in found.differences["fp32"].values())


def test_worker_processes_give_the_same_answers(
    deployed: Callable[[str], Path], tmp_path: Path
) -> None:
    data = squad(tmp_path)
    directory = deployed("question-answering")
    here = run(directory, "squad", data, tmp_path / "here")
    there = run(directory, "squad", data, tmp_path / "there", workers=2)
    assert there.predictions == here.predictions
    for variant, errors in here.errors.items():
        assert there.errors[variant] == pytest.approx(errors, abs=1e-5)
    assert there.metrics == here.metrics


def test_a_variant_that_a_worker_cannot_open_is_a_failure(
    deployed: Callable[[str], Path], tmp_path: Path
) -> None:
    from albert_deploy.validation.evaluate.workers import RunConfig, run_in_workers

    directory = deployed("text-classification")
    openers: dict[str, Callable[[], Session]] = {
        SOURCE: functools.partial(open_session, directory, variant="fp32", threads=1),
        "int8": functools.partial(open_session, directory / "gone", variant="int8"),
    }
    how = RunConfig(batch=BatchConfig(), timeout_s=60, vocabulary=(), labelled=True)
    assert list(run_in_workers(openers, [], how, workers=1)) == []
    from albert_deploy.validation.data.datasets import shipped_texts
    from albert_deploy.validation.data.rows import RowsConfig, encode_rows

    texts = shipped_texts("text-classification", 2)
    contract = read_manifest(directory)["contract"]
    tokenizer = load_tokenizer(directory)
    rows = list(encode_rows(texts, contract, tokenizer, RowsConfig(truncate=True)))
    groups = [[(i, row)] for i, row in enumerate(rows)]
    given = [result for _, result in run_in_workers(openers, groups, how, workers=1)]
    assert [list(r.outputs) for r in given] == [[SOURCE], [SOURCE]]
    assert "is not a deployment directory" in given[0].failures["int8"]
    broken = openers | {SOURCE: openers["int8"]}
    with pytest.raises(InputError, match="is not a deployment directory"):
        list(run_in_workers(broken, groups, how, workers=1))


def test_swapped_outputs_are_far_from_the_source_and_no_crash(
    deployed: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = deployed("question-answering")
    manifest = read_manifest(directory)

    class Swapped:
        engine = "ort"

        def __init__(self, inner: Session) -> None:
            self.inner, self.outputs = inner, inner.outputs

        def run(self, feeds: Any) -> Any:
            found = self.inner.run(feeds)
            return {"start_logits": found["end_logits"], "end_logits": found["start_logits"]}

        def close(self) -> None: ...

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

    with open_reference(manifest) as source, open_session(directory) as plain_session:
        found = evaluate(
            {SOURCE: source, "int8": Swapped(plain_session), "fp32": plain_session},
            contract=manifest["contract"],
            task=manifest["task"],
            tokenizer=load_tokenizer(directory),
            decide={"start_logits": "argmax", "end_logits": "argmax"},
            dataset=("squad", squad(tmp_path)),
            config=EvaluateConfig(),
        )
    assert found.failures == {}
    assert found.differences["int8"]["start_logits"].sqnr_db < 10
    assert found.differences["fp32"]["start_logits"].sqnr_db > 80
