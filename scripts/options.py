"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from albert_deploy.runtime.contract import DEFAULT_VARIANTS, TASKS, VARIANTS
from albert_deploy.runtime.errors import InputError

if TYPE_CHECKING:
    from albert_deploy.quantize.calibration.texts import CalibrationConfig
    from albert_deploy.quantize.step import QuantizeConfig
    from albert_deploy.validation.pays import PaysConfig
    from albert_deploy.validation.step import ValidateConfig


def option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """Declare an option whose default is shown."""
    return click.option(*names, **({"show_default": True} | settings))


def _together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def declare(command: Any) -> Any:
        for one in reversed(options):
            command = one(command)
        return command

    return declare


out = option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Deployment directory to make.",
)
task = option("--task", default="auto", help=f"auto, or one of: {', '.join(TASKS)}.")
revision = option("--revision", default=None, help="Branch, tag or commit of a hub model.")
pickle = option(
    "--allow-pickle",
    is_flag=True,
    help="Read pytorch_model.bin where there are no safetensors (weights only).",
)
force = option("--force", is_flag=True, help="Replace what another run left there.")
variants = option(
    "--variants",
    default=",".join(DEFAULT_VARIANTS),
    help=f"Variants to make, separated by commas, of: {', '.join(VARIANTS)}.",
)
dataset = option(
    "--dataset",
    default=None,
    metavar="NAME[=PATH]",
    help="Labelled data in its official layout, such as sst2=FOLDER or squad_v2=FILE; a wrong "
    "name lists all.",
)
# How a validation is run: click hands them over by name; ``validate_config`` takes them.
validation = _together(
    option(
        "--dataset-revision",
        default=None,
        metavar="REV",
        help="Take the data set, named without a path, from the Hugging Face hub at this branch, "
        "tag or commit.",
    ),
    option("--skip-bad-rows", is_flag=True, help="Leave malformed rows out and count them."),
    option(
        "--label-order",
        default=None,
        metavar="NAME,NAME,…",
        help="Names of the checkpoint's classes, in order, where its id2label has none.",
    ),
    option(
        "--gate",
        type=click.Path(path_type=Path),
        default=None,
        metavar="FILE",
        help="TOML file with the policy: limits, margins, confidence (docs/gate.md).",
    ),
    option(
        "--baseline",
        type=click.Path(path_type=Path),
        default=None,
        metavar="FILE",
        help="reports/validation.json of an earlier release, to fail on a regression.",
    ),
    option(
        "--engine",
        default="auto",
        help="What runs the variants that it can run: ort, openvino, ort-cuda, or trt for their "
        "plans. By default the engine of each ONNX file.",
    ),
    option("--truncate", is_flag=True, help="Cut over-long texts instead of refusing them."),
    option("--workers", default=1, type=click.IntRange(min=1), help="Processes that run rows."),
    option(
        "--timeout",
        default=600.0,
        type=click.FloatRange(min=0, min_open=True),
        metavar="S",
        help="Longest time of one run of an engine, in seconds.",
    ),
    option(
        "--blame-trials",
        default=40,
        type=click.IntRange(min=0),
        metavar="N",
        help="Trials of the search for what makes a variant fail; 0 for none.",
    ),
)
directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
source = option(
    "--source", default=None, help="The checkpoint; by default where it was exported from."
)
lengths = option("--lengths", default="8,32,128,384", help="Tokens of a row, separated by commas.")
pays = _together(
    option(
        "--require-speedup",
        "speedup",
        type=float,
        default=None,
        metavar="X",
        help="Fail (7) unless each variant is X times as fast as fp32 at each length.",
    ),
    option(
        "--require-size",
        "size",
        type=float,
        default=None,
        metavar="X",
        help="Fail (7) if a variant has more than this share of fp32's bytes, such as 0.3.",
    ),
)
# Click hands them over by name; ``quantize_config`` takes them as they come.
quantization = _together(
    option(
        "--calibration",
        default=None,
        metavar="NAME[=PATH]",
        help="Texts for the static variants: a data set's folder (its train split), text=FILE "
        "with a text per line, or statistics=FILE of an earlier calibration.",
    ),
    option("--samples", default=256, type=click.IntRange(min=1), help="Calibration texts."),
    option("--seed", default=0, help="Seed of their random draw."),
    option("--allow-few-samples", is_flag=True, help="Calibrate on fewer than 32 texts."),
    option("--allow-evaluation-split", is_flag=True, help="Calibrate on a dev split."),
    option(
        "--ranges",
        default=None,
        metavar="RULE",
        help="How calibration chooses a range: mse (default), minmax, percentile or entropy.",
    ),
    option(
        "--alpha",
        default=None,
        type=float,
        help="Share of an outlier channel that is moved into weights: 0 to 1, by default 0.5.",
    ),
    option(
        "--rounding",
        default=None,
        help="Of static INT8 weights: compensated (default) or nearest.",
    ),
    option(
        "--keep",
        multiple=True,
        metavar="LABEL",
        help="Product whose activation stays real, such as 'encoder iteration 11, ffn_output'; "
        "may be repeated.",
    ),
    option(
        "--budget",
        default=None,
        type=click.IntRange(min=1),
        metavar="N",
        help="Search, with at most N trials, for the fewest products to keep real.",
    ),
)


# How a model is served; None leaves it to what was measured, or to the machine.
serving = _together(
    option("--name", default=None, help="Name of the served model; by default albert."),
    option(
        "--instances",
        default=None,
        type=click.IntRange(min=1),
        metavar="N",
        help="Networks that run beside each other.",
    ),
    option(
        "--threads",
        default=None,
        type=click.IntRange(min=0),
        metavar="N",
        help="Threads of each; 0 for one per core.",
    ),
    option(
        "--max-batch",
        default=None,
        type=click.IntRange(min=1),
        metavar="N",
        help="Most texts of a request, and rows of a batch; by default 32.",
    ),
    option(
        "--max-queue",
        "queue",
        default=None,
        type=click.IntRange(min=1),
        metavar="N",
        help="Most requests that wait for a network; by default 256.",
    ),
    option(
        "--max-text-bytes",
        default=None,
        type=click.IntRange(min=1),
        metavar="N",
        help="Most bytes of one text; by default 65536.",
    ),
    option("--plan", default=None, metavar="NAME", help="Engine plan to serve, see build."),
)


def pop_serving(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options of ``serving`` out of those that click hands over."""
    names = ("name", "instances", "threads", "max_batch", "queue", "max_text_bytes", "plan")
    return {name: given.pop(name) for name in names}


def quantize_config(
    given: dict[str, Any],
    *,
    variants: str,
    force: bool = False,
    default: tuple[str, Path | None] | None = None,
) -> QuantizeConfig:
    """Make the quantize step's configuration from the options of ``quantization``.

    Args:
        given: The options, as click hands them over.
        variants: Text of ``--variants``.
        force: Make variants again.
        default: Calibration data where none is given, for those variants that need some.

    Raises:
        InputError: An option means nothing.
    """
    from albert_deploy.quantize.schemes.table import SCHEMES
    from albert_deploy.quantize.step import QuantizeConfig

    needed = any(name in SCHEMES and SCHEMES[name].calibrated for name in names(variants))
    fields = {"ranges": "rule", "alpha": "alpha", "rounding": "rounding"}
    static = {field: given[name] for name, field in fields.items() if given[name] is not None}
    if given["keep"]:
        static["keep"] = tuple(given["keep"])
    return QuantizeConfig(
        variants=names(variants),
        force=force,
        calibration=_calibration(given, default if needed else None),
        static=static,
        budget=given["budget"],
    )


def _calibration(
    given: dict[str, Any], default: tuple[str, Path | None] | None
) -> CalibrationConfig | None:
    from albert_deploy.quantize.calibration.texts import CalibrationConfig, parse_calibration

    text = given["calibration"]
    name, path = parse_calibration(text) if text is not None else (None, None)
    if name is None and default is None:
        return None
    if path is None:
        if default is None or name not in (None, default[0]):
            raise InputError(f"--calibration {name} needs the place of the data: {name}=PATH")
        name, path = default
    if path is None:
        raise InputError(f"--calibration {name} needs the place of the data: {name}=PATH")
    return CalibrationConfig(
        name=name or "",
        path=path,
        samples=given["samples"],
        seed=given["seed"],
        allow_few=given["allow_few_samples"],
        allow_evaluation=given["allow_evaluation_split"],
    )


def validate_config(
    given: dict[str, Any],
    *,
    dataset: tuple[str, Path | None] | None,
    source: str | None = None,
    allow_calibration_rows: bool = False,
) -> ValidateConfig:
    """Make the validate step's configuration from the options of ``validation``.

    Args:
        given: The options, as click hands them over.
        dataset: Result of ``scripts.release.sample_data``.
        source: Where the checkpoint is.
        allow_calibration_rows: See ``ValidateConfig``.

    Raises:
        InputError: An option means nothing.
    """
    from albert_deploy.validation.data.rows import RowsConfig
    from albert_deploy.validation.evaluate.evaluate import EvaluateConfig
    from albert_deploy.validation.step import ValidateConfig

    order = given["label_order"]
    return ValidateConfig(
        dataset=dataset,
        revision=given["dataset_revision"],
        skip_bad_rows=given["skip_bad_rows"],
        source=source,
        gate=given["gate"],
        baseline=given["baseline"],
        engine=given["engine"],
        blame_trials=given["blame_trials"],
        allow_calibration_rows=allow_calibration_rows,
        evaluate=EvaluateConfig(
            rows=RowsConfig(truncate=given["truncate"]),
            label_order=None if order is None else tuple(n.strip() for n in order.split(",")),
            workers=given["workers"],
            timeout_s=given["timeout"],
        ),
    )


def pays_config(speedup: float | None, size: float | None) -> PaysConfig | None:
    """Return what is required of variants; None where nothing is."""
    from albert_deploy.validation.pays import PaysConfig

    return None if speedup is None and size is None else PaysConfig(speedup=speedup, size=size)


def names(text: str) -> tuple[str, ...]:
    """Split ``--variants``.

    Raises:
        InputError: It names none.
    """
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise InputError(f"--variants names none; use some of: {', '.join(VARIANTS)}")
    return found


def targets(text: str) -> tuple[str, ...]:
    """Split ``--target``."""
    return tuple(name.strip().lower() for name in text.split(",") if name.strip())


def numbers(name: str, text: str) -> tuple[int, ...]:
    """Split a list of numbers.

    Raises:
        click.BadParameter: It holds something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"got {name} {text}; wanted numbers such as 8,32") from None


def parse_dataset(text: str | None) -> tuple[str, Path | None] | None:
    """Split ``--dataset NAME[=PATH]``."""
    from albert_deploy.validation.data.datasets import parse_dataset_option

    return None if text is None else parse_dataset_option(text)


def note(line: str) -> None:
    """Print a line about progress where it does not mix with results."""
    click.echo(line, err=True)


def show(place: Path, report: dict[str, Any]) -> None:
    """Print a report's table and verdict, and raise what the verdict calls for."""
    from albert_deploy.validation.gate.gate import raise_for_verdict
    from albert_deploy.validation.report import REPORTS, table

    data = report["dataset"]
    on = data["name"] or "texts without labels: no score was measured, see --dataset"
    click.echo(f"\n{report['task']} on {data['rows']} rows ({on})\n\n{table(report)}\n")
    click.echo(f"verdict: {report['verdict']}   {place}   {place / REPORTS / 'summary.md'}")
    raise_for_verdict(report)
