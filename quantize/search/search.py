"""Accuracy-aware search: the fewest products to keep real so that a variant holds its gate.

The stored weights stay quantized and shared; what is kept is a (weight, use) pair, or one of
attention's own products, whose activation is not rounded at that use. Judged is agreement with
the fp32 file on calibration texts that are held out from calibration: never the gate's own data.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from albert_deploy.export.graph.file import load
from albert_deploy.export.graph.uses import Use
from albert_deploy.quantize.calibration.texts import Texts, sampled
from albert_deploy.quantize.schemes.static import StaticConfig, quantized_uses
from albert_deploy.quantize.search.report import (
    choose,
    files_of,
    latencies,
    message_of,
    pareto_front,
    pareto_rows,
    sensitivities,
    write_search,
)
from albert_deploy.quantize.search.strategy import Requests, strategy
from albert_deploy.quantize.search.trials import (
    Key,
    SearchConfig,
    Trial,
    TrialLog,
    Trials,
    digest_of,
)
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import choose_engine
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import check_file, file_record, read_manifest, write_manifest
from albert_deploy.validation.evaluate.evaluate import decisions

_LOG = logging.getLogger(__name__)
# Texts that agreement and ranges need at least, each.
LEAST_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What was found.

    Attributes:
        held: Whether ``chosen`` passes the gate.
        message: One line about it; where it does not hold, what was wanted and what to do.
        keep: For ``StaticConfig.keep``: labels in the order of execution.
        kept_weight_uses: How many of them are uses of a weight.
        weight_uses: Uses of weights in the encoder's iterations, all together.
        plain: The variant that keeps nothing.
        chosen: The smallest that holds, or else the best one found.
        trials: All, in the order in which they were asked for.
        pareto: Rows of the Pareto table.
        files: What was written, as paths in the deployment directory; they are in its manifest.
    """

    held: bool
    message: str
    keep: tuple[str, ...]
    kept_weight_uses: int
    weight_uses: int
    plain: Trial
    chosen: Trial
    trials: tuple[Trial, ...]
    pareto: list[dict[str, Any]]
    files: tuple[str, ...]


def search(
    directory: Path,
    config: SearchConfig,
    texts: Texts,
    static: StaticConfig,
) -> SearchResult:
    """Search and write the log, the Pareto table and the picture into a deployment directory.

    Args:
        directory: Deployment directory with the fp32 file.
        config: Gate and budget.
        texts: Calibration texts, of which a part is held out.
        static: The variant's options; what it keeps already is kept in all trials.

    Returns:
        The result. Its files are entered in the manifest on disk: a caller that holds one in
        memory enters ``files`` there too. A gate that is not held is no error here.

    Raises:
        InputError: Too few texts, nothing to keep, or a label or variant that is not there.
        ContractError: The fp32 file is not the one that the manifest records.
        MachineError: No engine for the variant is installed.
    """
    manifest = read_manifest(directory)
    source = check_file(directory, manifest, VARIANTS["fp32"].file)
    rows, rest = _split(texts, config)
    uses, everything = _products(source, static)
    decide = decisions(manifest["contract"], manifest["task"])
    if config.min_sqnr_db is None and not any(decide.values()):
        raise InputError("no output is a decision, so none can agree; set min_sqnr_db")
    plain, target = choose_engine(manifest, "fp32"), choose_engine(manifest, config.variant)
    reference = plain if plain in VARIANTS[config.variant].engines else target
    most = int(config.most_kept * len(uses))
    files = files_of(config.variant)
    # Out of the manifest while it changes: a killed search must not look like a changed file.
    for name in files:
        manifest["files"].pop(name, None)
    write_manifest(directory, manifest)
    header = {
        "source_sha256": manifest["files"][VARIANTS["fp32"].file]["sha256"],
        "variant": config.variant,
        "engines": [reference, target],
        "options": asdict(static),
        "texts": dict(texts.origin),
        "held_out_sha256": digest_of(rows),
        "calibrated_sha256": digest_of(rest.rows),
    }
    labels = [p.label for p in uses]
    log = TrialLog(directory / files[0], header, labels)
    _LOG.info(
        f"{config.variant}: searching {len(uses)} products, at most {config.budget} trials on "
        f"{len(rows)} texts, {len(log.known)} in the log"
    )
    with tempfile.TemporaryDirectory(prefix="albert-deploy-") as work:
        trials = Trials(
            source,
            static,
            variant=config.variant,
            engine=plain,
            texts=rest,
            rows=rows,
            decide=decide,
            work=Path(work),
        )
        done = _run(strategy(uses, config.holds, most), trials, log, (reference, target), config)
        candidates = [t for t in done if t.engine == target and len(t.kept) <= most]
        chosen = choose(candidates, config)
        front = pareto_front(candidates, chosen, config)
        tokens, times = latencies(trials, front, config)
    weighted = {p.label for p in everything if p.weight}
    keep = tuple(p.label for p in everything if p.label in chosen.kept or p.label in static.keep)
    result = SearchResult(
        held=config.holds(chosen),
        message=message_of(config, done, chosen, len(uses), most),
        keep=keep,
        kept_weight_uses=len(set(keep) & weighted),
        weight_uses=len(weighted),
        plain=done[0],
        chosen=chosen,
        trials=tuple(done),
        pareto=pareto_rows(front, times, chosen, weighted, config),
        files=files,
    )
    report = {
        "variant": config.variant,
        "engine": target,
        "sensitivity_engine": reference,
        "held": result.held,
        "message": result.message,
        "gate": {k: getattr(config, k) for k in ("min_agreement", "min_sqnr_db", "most_kept")},
        "budget": config.budget,
        "texts": {**header["texts"], "held_out": len(rows), "calibrated": len(rest.rows)},
        "keep": list(keep),
        "products": len(uses),
        "kept_weight_uses": result.kept_weight_uses,
        "weight_uses": result.weight_uses,
        "latency": {"tokens": tokens, "threads": 1, "rounds": config.rounds},
        "pareto": result.pareto,
        "sensitivity": sensitivities(uses, done, reference),
        "trials": [trial.to_json(labels) for trial in done],
    }
    write_search(directory, report)
    manifest["files"] |= {name: file_record(directory / name) for name in files}
    write_manifest(directory, manifest)
    _LOG.info(result.message)
    return result


def _products(source: Path, static: StaticConfig) -> tuple[list[Use], list[Use]]:
    """Return the products that may be kept, and those with what the options keep already."""
    graph = load(source)
    uses = quantized_uses(graph, static)
    if not uses:
        raise InputError("no product is quantized, so there is nothing to search for; keep fewer")
    return uses, quantized_uses(graph, replace(static, keep=()))


def _run(
    requests: Requests,
    trials: Trials,
    log: TrialLog,
    engines: tuple[str, str],
    config: SearchConfig,
) -> list[Trial]:
    """Answer a strategy until it ends or the budget does; a set asked for again costs nothing."""
    done: dict[Key, Trial] = {}
    reference, target = engines
    with (
        tqdm(total=config.budget, desc="search", unit="trial", disable=None, leave=False) as bar,
        contextlib.suppress(StopIteration),
    ):
        request = next(requests)
        while True:
            engine = reference if request.alone else target
            key = (engine, request.kept)
            if key not in done:
                if len(done) == config.budget:
                    break
                found = log.known.get(key)
                done[key] = found or log.add(trials.run(request.step, request.kept, engine))
                bar.set_postfix_str(f"{done[key].sqnr_db:.1f} dB, {len(request.kept)} kept")
                bar.update()
            request = requests.send(done[key])
    return list(done.values())


def _split(texts: Texts, config: SearchConfig) -> tuple[list[Any], Texts]:
    """Return the rows to measure on, and the others as texts of their own."""
    count = len(texts.rows)
    wanted = max(LEAST_ROWS, round(count * config.held_out))
    if count - wanted < LEAST_ROWS:
        raise InputError(
            f"got {count} calibration texts; the search measures on {wanted} and calibrates on "
            f"the others, {LEAST_ROWS} at least: give more with `calibration` and `samples`"
        )
    held = set(sampled(count, wanted, config.seed))
    rows = [row for i, row in enumerate(texts.rows) if i in held]
    rest = tuple(row for i, row in enumerate(texts.rows) if i not in held)
    return rows, Texts(rows=rest, origin=texts.origin)
