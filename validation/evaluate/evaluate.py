"""Run the source and its variants over the same rows, and keep what they answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tqdm import tqdm

from albert_deploy.runtime.contract import TASKS
from albert_deploy.runtime.errors import AlbertDeployError, ContractError, InputError
from albert_deploy.runtime.session import Session
from albert_deploy.validation.data.datasets import read_data, shipped_texts
from albert_deploy.validation.data.rows import Example, Row, RowsConfig, encode_rows
from albert_deploy.validation.evaluate.batches import BatchConfig, Group, Outputs, groups
from albert_deploy.validation.evaluate.evidence import Evidence, Progress, keep_predictions
from albert_deploy.validation.evaluate.exact import Float64
from albert_deploy.validation.evaluate.journal import FOLDER, Journal, journal_key
from albert_deploy.validation.evaluate.predictions import Heads, heads, predict, vocabulary_outputs
from albert_deploy.validation.evaluate.timeout import watch
from albert_deploy.validation.evaluate.workers import (
    SOURCE,
    GroupOutputs,
    Openers,
    RunConfig,
    run_here,
    run_in_workers,
)
from albert_deploy.validation.parity.difference import Case, Difference
from albert_deploy.validation.scores.scores import measure


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How rows become feeds and outputs answers.

    Args:
        rows: How texts become feeds.
        batch: How many rows run at once.
        n_best: Starts and ends considered for an answer.
        max_answer_tokens: Longest answer.
        max_context: See ``validation.scores.squad_answers.best_answers``.
        label_order: Names of the checkpoint's classes, for one whose ``id2label`` has none.
        grid_texts: Rows whose texts the edge grid and the error trace use.
        unlabelled_rows: Real texts that are run where there is no data set.
        timeout_s: Longest time of one run of an engine; None for no limit.
        workers: Processes that run rows; 1 runs them in this one.

    Raises:
        InputError: A value is out of range.
    """

    rows: RowsConfig = field(default_factory=RowsConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    n_best: int = 20
    max_answer_tokens: int = 30
    max_context: bool = False
    label_order: tuple[str, ...] | None = None
    grid_texts: int = 64
    unlabelled_rows: int = 64
    timeout_s: float | None = 600.0
    workers: int = 1

    def __post_init__(self) -> None:
        least = min(self.n_best, self.max_answer_tokens, self.grid_texts, self.workers)
        if least < 1 or self.unlabelled_rows < 1:
            raise InputError(
                f"n_best is {self.n_best}, max_answer_tokens {self.max_answer_tokens}, grid_texts "
                f"{self.grid_texts}, unlabelled_rows {self.unlabelled_rows} and workers "
                f"{self.workers}; use at least 1 of each"
            )
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise InputError(f"the timeout is {self.timeout_s} s; use more than 0, or none")


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Where an evaluation keeps its predictions and its progress.

    Args:
        reports: Folder of the reports.
        models: SHA-256 of the file of the source and of each variant.
    """

    reports: Path
    models: Mapping[str, str]


def decisions(contract: Mapping[str, Any], task: str) -> dict[str, str | None]:
    """Return for each output of a task how it becomes a prediction, see ``Difference``."""
    by_problem = {"multi_label_classification": "sign", "regression": None}
    kind = by_problem.get(contract["problem_type"], "argmax")
    return {
        output.name_in(contract["family"]): None if output.argmax_axis is None else kind
        for output in TASKS[task].outputs
    }


def evaluate(
    sessions: Mapping[str, Session],
    *,
    contract: dict[str, Any],
    task: str,
    tokenizer: Tokenizer,
    decide: Mapping[str, str | None],
    dataset: tuple[str, Path | None] | None,
    config: EvaluateConfig,
    examples: Sequence[Example] | None = None,
    storage: Storage | None = None,
    openers: Openers | None = None,
) -> Evidence:
    """Run every session on every row, without padding.

    A variant that fails, by an error of its engine or by giving no answer in time, is left out
    from then on and named in ``Evidence.failures``; the others go on. With ``storage``, a run that
    is killed goes on where it was when it is started again, and ends in the same evidence.

    Args:
        sessions: ``source`` and the variants.
        contract: The manifest's contract.
        task: Key of ``TASKS``.
        tokenizer: The directory's tokenizer.
        decide: Result of ``decisions``.
        dataset: Name and path of labelled data; None runs real texts without labels.
        config: Options.
        examples: Rows of the data set that were read already; None reads them.
        storage: Where predictions and progress are kept; None keeps none.
        openers: What opens each session in a worker process, see ``run_in_workers``; needed for
            more than one worker.

    Raises:
        InputError: The data does not fit the task, or a text is too long.
        AlbertDeployError: The source fails.
    """
    if config.workers > 1 and openers is None:
        raise InputError(f"{config.workers} workers need what opens the models; use 1 worker")
    how, rows_config = None, config.rows
    if dataset is not None:
        how = heads(
            dataset[0],
            task,
            contract,
            max_answer_tokens=config.max_answer_tokens,
            n_best=config.n_best,
            max_context=config.max_context,
            label_order=config.label_order,
        )
        rows = list(examples) if examples is not None else read_data(*dataset).rows
    else:
        rows = shipped_texts(task, config.unlabelled_rows)
        rows_config = replace(config.rows, truncate=True)
    evidence = Evidence(rows=len(rows), examples=rows)
    progress = Progress(
        sessions, {v: _differences(decide) for v in sessions if v != SOURCE}, len(rows)
    )
    run_config = RunConfig(
        batch=config.batch,
        timeout_s=config.timeout_s,
        vocabulary=vocabulary_outputs(task, contract),
        labelled=how is not None,
    )
    texts = _noted(encode_rows(rows, contract, tokenizer, rows_config), evidence, config.grid_texts)
    todo = groups(texts, config.batch)
    if storage is not None:
        engines = {name: getattr(session, "engine", None) for name, session in sessions.items()}
        settings = asdict(replace(config, timeout_s=None, workers=1))
        facts = {"engines": engines, "dataset": dataset and dataset[0], "decide": dict(decide)}
        key = journal_key(storage.models, rows, facts | {"contract": contract, "config": settings})
        evidence.journal = storage.reports / FOLDER / f"{key}.jsonl"
    with Journal(evidence.journal) as journal:
        for entry, _ in zip(journal.done, todo, strict=False):
            progress.enter(entry)
        if journal.done:
            progress.restore(journal.done[-1])
        if config.workers > 1 and openers is not None:
            alive = {name: opener for name, opener in openers.items() if name in sessions}
            results = run_in_workers(alive, todo, run_config, workers=config.workers)
        else:
            results = run_here(sessions, todo, run_config)
        done = sum(len(entry["numbers"]) for entry in journal.done)
        with tqdm(
            total=len(rows), initial=done, desc="rows", unit="row", disable=None, leave=False
        ) as bar:
            for number, (group, given) in enumerate(results, start=len(journal.done)):
                entry = _recorded(group, given, rows, how, progress)
                progress.enter(entry)
                journal.add({"group": number} | entry | progress.state())
                bar.update(len(group))
    progress.fill(evidence, labelled=how is not None)
    if dataset is not None:
        evidence.measured = {
            name: measure(dataset[0], rows, predicted)
            for name, predicted in evidence.predictions.items()
        }
    if storage is not None:
        lines = {name: progress.lines[name] for name in evidence.predictions}
        evidence.files = keep_predictions(storage.reports, lines)
    return evidence


def run_grid(
    sessions: Mapping[str, Session],
    cases: list[Case],
    decide: Mapping[str, str | None],
    *,
    failures: dict[str, str] | None = None,
    timeout_s: float | None = None,
    float64: Float64 | None = None,
) -> dict[str, dict[str, Difference]]:
    """Run every session on every case of the edge grid; return variant -> output -> comparison.

    Args:
        sessions: ``source`` and the variants.
        cases: Result of ``parity.edge_grid``.
        decide: Result of ``decisions``.
        failures: Why variants cannot be run: those are left out, and those that fail here are
            entered and left out too. With None a failure is an error.
        timeout_s: Longest time of one run; None for no limit.
        float64: Gets what they gave; None compares with the source alone.

    Raises:
        AlbertDeployError: The source fails, or a variant does and ``failures`` is None.
    """
    known = {} if failures is None else failures
    watched = {n: watch(s, n, timeout_s) for n, s in sessions.items() if n not in known}
    found = {v: _differences(decide) for v in watched if v != SOURCE}
    for case in tqdm(cases, desc="edge grid", unit="case", disable=None, leave=False):
        source = [watched[SOURCE].run(case.feeds, case.name)]
        given = {SOURCE: source[0]}
        for variant in list(found):
            try:
                outputs = [watched[variant].run(case.feeds, case.name)]
                _compare(found[variant], source, outputs, f"{variant} on {case.name}")
                given[variant] = outputs[0]
            except AlbertDeployError as error:
                if failures is None:
                    raise
                failures[variant] = str(error)
                del found[variant]
        if float64 is not None:
            float64.add("grid", case.feeds, given)
    return found


def _differences(decide: Mapping[str, str | None]) -> dict[str, Difference]:
    return {output: Difference(decision) for output, decision in decide.items()}


def _noted(rows: Iterable[Row], evidence: Evidence, count: int) -> Iterator[Row]:
    """Pass rows on, and note the inputs of the first ones."""
    for row in rows:
        if len(evidence.feeds) < count:
            evidence.feeds.append(row.feeds[0])
        yield row


def _recorded(
    group: Group,
    given: GroupOutputs,
    rows: Sequence[Example],
    how: Heads | None,
    progress: Progress,
) -> dict[str, Any]:
    """Compare and predict what a group gave; return its entry, see ``Progress.enter``."""
    for name, reason in given.failures.items():
        progress.failures.setdefault(name, reason)
    alive = [name for name in given.outputs if name not in progress.failures]
    entry: dict[str, Any] = {"numbers": [number for number, _ in group], "errors": {}, "lines": {}}
    for name in alive:
        if name == SOURCE:
            continue
        pairs = zip(group, given.outputs[SOURCE], given.outputs[name], strict=True)
        try:
            entry["errors"][name] = [
                _compare(progress.differences[name], ours, theirs, f"{name} on row {row.id}")
                for (_, row), ours, theirs in pairs
            ]
        except ContractError as error:
            progress.failures[name] = str(error)
    if how is not None:
        entry["lines"] = {
            name: [
                predict(rows[number], row, outputs, how)
                for (number, row), outputs in zip(group, given.outputs[name], strict=True)
            ]
            for name in alive
            if name not in progress.failures
        }
    return entry


def _compare(
    differences: dict[str, Difference],
    source: Sequence[Outputs],
    variant: Sequence[Outputs],
    where: str,
) -> float:
    """Add the outputs of a row, or of a case; return their largest difference."""
    largest = 0.0
    for ours, theirs in zip(source, variant, strict=True):
        for name, difference in differences.items():
            if ours[name].shape != theirs[name].shape:
                raise ContractError(
                    f"{where}: {name} has the shape {theirs[name].shape}, that of the source "
                    f"{ours[name].shape}; make the variant again"
                )
            largest = max(largest, difference.add(ours[name], theirs[name]))
    return largest
