"""Options as fields of frozen classes, those that several commands share, and their types."""

from __future__ import annotations

import contextlib
import functools
import logging
import types
from collections.abc import Callable, Iterator
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import click

from albert_deploy.runtime.contract import DEFAULT_VARIANTS, VARIANTS
from albert_deploy.runtime.errors import InputError

if TYPE_CHECKING:
    from albert_deploy.validation.bench.choose import Requirement

Command = Callable[..., None]
Dataset = tuple[str, Path | None]


def opt(default: Any, text: str, metavar: str | None = None, **settings: Any) -> Any:
    """Declare a field that ``takes`` makes an option of.

    Args:
        default: Of the field and of the option.
        text: Help.
        metavar: What the help calls the value; by default its type.
        settings: More of what ``click.option`` takes; ``flag`` is the option's name, or its
            names, where it is not the field's.
    """
    return field(default=default, metadata={"help": text, "metavar": metavar, **settings})


def takes(kind: type[Any], name: str) -> Callable[[Command], Command]:
    """Add an option to a command for each field of a frozen dataclass.

    The option is named after the field; its type is the annotated one unless ``opt`` has another.

    Args:
        kind: The class.
        name: Argument by which the command gets an instance.
    """

    def declare(command: Command) -> Command:
        @functools.wraps(command)
        def call(**given: Any) -> None:
            made = kind(**{one.name: given.pop(one.name) for one in fields(kind)})
            command(**given, **{name: made})

        hints = get_type_hints(kind)
        declared: Command = call
        for one in reversed(fields(kind)):
            declared = _as_option(one, hints[one.name])(declared)
        return declared

    return declare


def _as_option(one: Field[Any], hint: Any) -> Callable[[Command], Command]:
    settings = dict(one.metadata)
    flag = settings.pop("flag", f"--{one.name.replace('_', '-')}")
    if isinstance(hint, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if hint is bool:
        settings["is_flag"] = True
    elif not settings.get("multiple"):
        settings.setdefault("type", click.Path(path_type=Path) if hint is Path else hint)
    default = one.default
    if isinstance(default, tuple) and not settings.get("multiple"):
        default = ",".join(map(str, default))
    if not settings.get("required"):
        settings["default"] = default
    flags = (flag,) if isinstance(flag, str) else flag
    return option(*flags, one.name, **settings)


def option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """Declare an option whose default is shown."""
    return click.option(*names, **({"show_default": True} | settings))


class _Parsed(click.ParamType):  # type: ignore[type-arg]
    """What a function of the option's name and its text returns."""

    name = "text"

    def __init__(self, parse: Callable[[str, str], Any]) -> None:
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        return self._parse(param.opts[0] if param else "", value)


def names(text: str, option: str = "--variants") -> tuple[str, ...]:
    """Split a list of names.

    Raises:
        InputError: It has none.
    """
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise InputError(f"{option} names none; use some of: {', '.join(VARIANTS)}")
    return found


def targets(text: str) -> tuple[str, ...]:
    """Split ``--target``."""
    return tuple(name.strip().lower() for name in text.split(",") if name.strip())


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Split a list of numbers.

    Raises:
        click.BadParameter: It holds something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"got {option} {text}; wanted numbers such as 8,32") from None


def parse_dataset(text: str | None) -> Dataset | None:
    """Split ``--dataset NAME[=PATH]``."""
    from albert_deploy.validation.data.datasets import parse_dataset_option

    return None if text is None else parse_dataset_option(text)


NAMES = _Parsed(lambda option, text: names(text, option))
PATTERNS = _Parsed(lambda _, text: tuple(text.split(",")))
NUMBERS = _Parsed(numbers)
DATASET = _Parsed(lambda _, text: parse_dataset(text))
COUNT = click.IntRange(min=1)
COUNT_OR_0 = click.IntRange(min=0)
SECONDS = click.FloatRange(min=0, min_open=True)

directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
SOURCE = "The checkpoint; by default where it was exported from."
source = option("--source", default=None, help=SOURCE)
LABELLED = (
    "Labelled data in its official layout, such as sst2=FOLDER or squad_v2=FILE; a wrong name "
    "lists all."
)
dataset = option("--dataset", type=DATASET, default=None, metavar="NAME[=PATH]", help=LABELLED)
variants = option(
    "--variants",
    type=NAMES,
    default=",".join(DEFAULT_VARIANTS),
    help=f"Variants to make, separated by commas, of: {', '.join(VARIANTS)}.",
)
force = option("--force", is_flag=True, help="Replace what another run left there.")


def pays(command: Command) -> Command:
    """Add what is required of variants; ``pays_config`` takes it."""
    quick = "Fail (7) unless each variant is X times as fast as fp32 at each length."
    small = "Fail (7) if a variant has more than this share of fp32's bytes, such as 0.3."
    both = {"type": float, "default": None, "metavar": "X"}
    both_of: Command = option("--require-speedup", "speedup", help=quick, **both)(
        option("--require-size", "size", help=small, **both)(command)
    )
    return both_of


def pays_config(speedup: float | None, size: float | None) -> Requirement | None:
    """Return what is required of variants; None where nothing is."""
    from albert_deploy.validation.bench.choose import Requirement

    return None if speedup is None and size is None else Requirement(speedup=speedup, size=size)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a model is served; None leaves it to what was measured, or to the machine."""

    name: str | None = opt(None, "Name of the served model; by default albert.")
    instances: int | None = opt(None, "Networks that run beside each other.", "N", type=COUNT)
    threads: int | None = opt(None, "Threads of each; 0 for one per core.", "N", type=COUNT_OR_0)
    max_batch: int | None = opt(
        None, "Most texts of a request, and rows of a batch; by default 32.", "N", type=COUNT
    )
    queue: int | None = opt(
        None,
        "Most requests that wait for a network; by default 256.",
        "N",
        type=COUNT,
        flag="--max-queue",
    )
    max_text_bytes: int | None = opt(
        None, "Most bytes of one text; by default 65536.", "N", type=COUNT
    )
    plan: str | None = opt(None, "Engine plan to serve, see build.", "NAME")

    def given(self) -> dict[str, Any]:
        """Return those that are not left open."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class _Echo(logging.Handler):
    """Prints what the packages log, with ``err`` where it does not mix with results."""

    err = True

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line; of what only loads and runs models, warnings alone."""
        if record.levelno >= logging.WARNING or not record.name.startswith(_QUIET):
            click.echo(self.format(record), err=self.err)


_PACKAGE, _QUIET = "albert_deploy", "albert_deploy.runtime"
_ECHO = _Echo()


@contextlib.contextmanager
def progress() -> Iterator[None]:
    """Print progress to the standard error while the block runs."""
    log = logging.getLogger(_PACKAGE)
    level, _ECHO.err = log.level, True
    log.setLevel(logging.INFO)
    log.addHandler(_ECHO)
    try:
        yield
    finally:
        log.removeHandler(_ECHO)
        log.setLevel(level)


def progress_is_the_result() -> None:
    """Print the progress of a command that has no other output where results go."""
    _ECHO.err = False


def show(place: Path, report: dict[str, Any]) -> None:
    """Print a report's table and verdict, and raise what the verdict calls for."""
    from albert_deploy.runtime.manifest import REPORTS
    from albert_deploy.validation.gate.gate import raise_for_verdict
    from albert_deploy.validation.report.markdown import table

    data = report["dataset"]
    on = data["name"] or "texts without labels: no score was measured, see --dataset"
    click.echo(f"\n{report['task']} on {data['rows']} rows ({on})\n\n{table(report)}\n")
    click.echo(f"verdict: {report['verdict']}   {place}   {place / REPORTS / 'summary.md'}")
    raise_for_verdict(report)
