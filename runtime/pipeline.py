"""Run a deployment directory on texts: ``load`` it once, call what it returns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from albert_deploy.runtime.batching import StreamConfig, answers
from albert_deploy.runtime.bundle import check_bundle, is_bundle
from albert_deploy.runtime.contract import CHOICES, INPUT_NAMES
from albert_deploy.runtime.engines.table import AUTO, open_session
from albert_deploy.runtime.errors import AlbertDeployError, InputError, MachineError
from albert_deploy.runtime.inputs import from_keywords, is_many, item, wanted
from albert_deploy.runtime.manifest import (
    MANIFEST_NAME,
    check_file,
    check_shape,
    read_json,
    read_manifest,
)
from albert_deploy.runtime.options import Options, options_for
from albert_deploy.runtime.recommend import Choice, recommend
from albert_deploy.runtime.session import Feeds, Outputs, Session
from albert_deploy.runtime.tasks.head import Encoded, TaskInfo
from albert_deploy.runtime.tasks.heads import HEADS
from albert_deploy.runtime.tasks.tokenize import TOKENIZER_NAME, load_tokenizer

_SETTINGS_NAME = "tokenizer_config.json"
_LOG = logging.getLogger(__name__)
# What a run costs on a CPU beside its tokens: reading the weights and starting operators takes as
# long as about so many tokens, from tiny models to base. GPUs run small batches in the same time.
_RUN_TOKENS = {"ort": 16, "openvino": 16}
_INPUT_KEYWORDS = ("text", "text_pair", "question", "context", "choices")


class Model:
    """A deployment directory that answers; may be called from several threads.

    Attributes:
        task: Key of ``TASKS``.
        variant: Key of ``VARIANTS``.
        engine: Key of ``ENGINES``.
        labels: Names of the classes, in the order of the logits; empty where there are none.
    """

    def __init__(self, session: Session, info: TaskInfo, *, variant: str, ranked: bool) -> None:
        self.task = info.task
        self.variant = variant
        self.engine = session.engine
        self.labels = info.labels
        self._session = session
        self._info = info
        self._ranked = ranked

    def __call__(self, inputs: Any = None, **given: Any) -> Any:
        """Answer one input, a list of them, or an iterator over them.

        Args:
            inputs: A text; a pair as a tuple of two texts; an object such as ``{"text": …,
                "text_pair": …}``, ``{"question": …, "context": …}`` or ``{"context": …,
                "question": …, "choices": […]}``; or a list or an iterator of such.
            given: Fields of ``Options`` that the task takes. Also ``text_pair``, or in place of
                ``inputs`` ``question`` and ``context``, or ``context``, ``question`` and
                ``choices``.

        Returns:
            What transformers' pipeline for the task returns, with Python's own numbers; see
            ``docs/runtime.md``. A list gives a list, an iterator an iterator, which reads ahead
            no further than batches need.

        Raises:
            InputError: An input or option cannot be used.
            ContractError: Outputs are NaN or infinite.
        """
        keywords = {key: given.pop(key) for key in _INPUT_KEYWORDS if key in given}
        options = options_for(self.task, given)
        alone = isinstance(inputs, str)
        if keywords:
            if inputs is not None:
                keywords["text"] = inputs
            inputs = from_keywords(self.task, keywords)
        elif inputs is None:
            raise InputError(f"got nothing to answer; {self.task} takes {wanted(self.task)}")
        if is_many(inputs):
            return self._stream(inputs, options)
        if not isinstance(inputs, list):
            (answer,) = self._stream([inputs], options)
            # The pipeline for classification gives its best label of a bare text in a list.
            wrapped = alone and self.task == "text-classification" and options.best
            return [answer] if wrapped else answer
        found = list(self._stream(inputs, options))
        return found[0] if len(found) == 1 and HEADS[self.task].lone_is_bare else found

    def stream(
        self, inputs: Iterable[Any], *, noun: str = "text", skip_bad: bool = False, **given: Any
    ) -> Iterator[Any]:
        """Answer inputs in their order, one answer for each, while reading a bounded way ahead.

        Args:
            inputs: As the elements of a list in ``__call__``. An error of this project among them
                stands for an input that could not be read.
            noun: How errors name an input, before its number from 1.
            skip_bad: Give ``{"error": message}`` for an input that cannot be used, and go on;
                otherwise it is raised once the inputs before it are answered.
            given: Fields of ``Options`` that the task takes.

        Raises:
            InputError: An input or option cannot be used.
            ContractError: Outputs are NaN or infinite.
        """
        return self._stream(inputs, options_for(self.task, given), noun=noun, skip_bad=skip_bad)

    def encode(self, item: Mapping[str, Any], options: Options, row: str) -> Encoded:
        """Tokenize one input that ``inputs.item`` checked, named ``row`` in errors.

        Raises:
            InputError: It cannot be used.
        """
        return HEADS[self.task].encode(self._info, dict(item), options, row)

    def run(self, encoded: Iterable[Encoded], *, batch_size: int) -> Iterator[Any]:
        """Answer inputs that were encoded, in their order, as ``stream`` does.

        Raises:
            ContractError: Outputs are NaN or infinite.
        """
        config = StreamConfig(
            batch_size=batch_size,
            tokens=HEADS[self.task].tokens,
            pad_id=self._info.pad_id,
            run_tokens=_RUN_TOKENS.get(self.engine),
        )
        return answers(encoded, self._run, config)

    def warm_up(self, rows: int, tokens: int = 16) -> None:
        """Run the network once on empty rows [rows, tokens], so that the first answer is quick."""
        row = np.zeros((rows, min(tokens, self._info.max_length)), np.int64)
        self._run(dict.fromkeys(INPUT_NAMES, row), rows)

    def close(self) -> None:
        """Free the model; it cannot answer any more."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stream(
        self, inputs: Iterable[Any], options: Options, *, noun: str = "text", skip_bad: bool = False
    ) -> Iterator[Any]:
        encoded = self._encoded(inputs, options, noun, skip_bad)
        return self.run(encoded, batch_size=options.batch_size)

    def _encoded(
        self, inputs: Iterable[Any], options: Options, noun: str, skip_bad: bool
    ) -> Iterator[Encoded]:
        for number, one in enumerate(inputs, 1):
            row = f"{noun} {number}"
            try:
                if isinstance(one, AlbertDeployError):
                    raise one
                made = self.encode(item(self.task, one, row=row), options, row)
            except InputError as error:
                if not skip_bad:
                    raise
                made = Encoded(rows=[], answer=partial(_error, str(error)))
            yield replace(made, answer=partial(_guarded, made.answer)) if skip_bad else made

    def _run(self, feeds: Feeds, choices: int) -> Outputs:
        if self._ranked:
            feeds = {name: v.reshape(-1, choices, v.shape[-1]) for name, v in feeds.items()}
        return {name: np.asarray(value) for name, value in self._session.run(feeds).items()}


def load(
    directory: str | Path,
    variant: str = AUTO,
    engine: str = AUTO,
    threads: int = 0,
    *,
    trust: bool = False,
) -> Model:
    """Open a deployment directory to answer texts, after comparing what it reads with its hashes.

    Args:
        directory: Deployment directory, or a bundle, every file of which is compared first.
        variant: Key of ``VARIANTS``, or ``auto``: see ``recommend.recommend``. The choice is
            logged once, at level INFO.
        engine: Key of ``ENGINES``, or ``auto``: see ``session.choose_engine``.
        threads: Threads inside one operator; 0 takes one per core.
        trust: Open a bundle without comparing it as a whole and, with ``engine="trt"``, also run
            a plan that the manifest does not vouch for. A plan is code.

    Raises:
        InputError: No such directory, variant or engine, or the engine does not run the variant.
        ContractError: A file is not the one that the manifest records, or the engine refuses it.
        MachineError: The engine is not installed, or there is no GPU for it.
    """
    place = Path(directory)
    if is_bundle(place) and not trust:
        check_bundle(place)
    manifest = read_manifest(place)
    check_shape(manifest, place / MANIFEST_NAME)
    info = read_task_info(place, manifest)
    if trust and engine == "trt":
        choice, session = _open_trusted(place, manifest, variant)
    else:
        choice = recommend(place, manifest, variant=variant, engine=engine)
        session = open_session(place, variant=choice.variant, threads=threads, engine=choice.engine)
    _LOG.info("%s: %s in %s (%s)", place, choice.variant, session.engine, choice.why)
    ranked = CHOICES in manifest["contract"]["inputs"][0]["axes"]
    return Model(session, info, variant=choice.variant, ranked=ranked)


def read_task_info(directory: Path, manifest: dict[str, Any]) -> TaskInfo:
    """Read the tokenizer and whatever else texts and answers need of a directory.

    Raises:
        ContractError: A file is not the one that the manifest records.
        InputError: A file cannot be read.
    """
    tokenizer = load_tokenizer(check_file(directory, manifest, TOKENIZER_NAME).parent)
    contract, config = manifest["contract"], manifest["source"].get("config", {})
    settings: Any = {}
    if _SETTINGS_NAME in manifest["files"]:
        path = check_file(directory, manifest, _SETTINGS_NAME)
        settings = read_json(path, "export the checkpoint again")
    width = contract["outputs"][0]["axes"][-1]
    labelled = manifest["task"] in ("text-classification", "token-classification")
    usual = tuple(f"LABEL_{i}" for i in range(width)) if isinstance(width, int) else ()
    return TaskInfo(
        task=manifest["task"],
        family=contract["family"],
        tokenizer=tokenizer,
        labels=(tuple(contract["labels"]) or usual) if labelled else (),
        # Not the contract's, which fills in what the configuration leaves open.
        problem_type=config.get("problem_type"),
        outputs=tuple(output["name"] for output in contract["outputs"]),
        max_length=int(contract["max_length"]),
        pad_id=int(contract["pad_token_id"]),
        settings=settings if isinstance(settings, Mapping) else {},
    )


def _open_trusted(
    directory: Path, manifest: dict[str, Any], variant: str
) -> tuple[Choice, Session]:
    """Open the first plan that runs here, whether or not the manifest vouches for it."""
    from albert_deploy.runtime.trt.context import TrtConfig
    from albert_deploy.runtime.trt.machine import this_machine
    from albert_deploy.runtime.trt.plans import check_plan, plan_names
    from albert_deploy.runtime.trt.session import open_trt

    machine, reasons = this_machine(), []
    for name in plan_names(directory, manifest):
        try:
            record = check_plan(directory, name, machine=machine, trust=True)
        except AlbertDeployError as error:
            reasons.append(f"{name}: {error}")
            continue
        if variant in (AUTO, record.variant):
            session = open_trt(directory, name, TrtConfig(policy="pad"), trust=True)
            return Choice(variant=record.variant, engine="trt", why=f"{name}, trusted"), session
    why = "; ".join(reasons) or f"{directory} holds no engine of {variant}"
    raise MachineError(f"no plan runs here: {why}; build one here: albert-deploy build")


def _guarded(answer: Callable[[list[Outputs]], Any], rows: list[Outputs]) -> Any:
    try:
        return answer(rows)
    except InputError as error:
        return {"error": str(error)}


def _error(message: str, _: list[Outputs]) -> dict[str, str]:
    return {"error": message}
