"""Command that generates the sample data and trains the sample checkpoints from nothing."""

import filecmp
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from albert_deploy.scripts.samples import training, vocabulary
from albert_deploy.scripts.samples.paragraphs import as_squad, question_pages
from albert_deploy.scripts.samples.reviews import review_rows

TASKS: Final = ("sst2", "squad")
SHIPPED_REVIEWS: Final = 1_000
SHIPPED_QUESTIONS: Final = 300
EXACT_FILES: Final = {
    "sst2": ("data/train.tsv", "data/dev.tsv", "tokenizer.json", "tokenizer_config.json"),
    "squad": (
        "data/train-v1.1.json",
        "data/dev-v1.1.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ),
}
MAIN_SCORE: Final = {"sst2": "accuracy", "squad": "f1"}
TOLERATED_POINTS: Final = 1.0


def write_reviews(path: Path, rows: list[tuple[str, int]]) -> None:
    """Write rows in the layout of GLUE SST-2: a header, then sentence, tab and label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def write_questions(path: Path, document: dict[str, Any]) -> None:
    """Write a SQuAD v1.1 document, one line for each article."""
    path.parent.mkdir(parents=True, exist_ok=True)
    articles = ",\n".join(json.dumps(a, ensure_ascii=False) for a in document["data"])
    text = f'{{"version": {json.dumps(document["version"])}, "data": [\n{articles}\n]}}\n'
    path.write_text(text, encoding="utf-8", newline="\n")


def first_questions(document: dict[str, Any], count: int) -> dict[str, Any]:
    """Copy the leading articles of a document that hold at least `count` questions."""
    chosen: list[Any] = []
    held = 0
    for article in document["data"]:
        if held >= count:
            break
        chosen.append(article)
        held += sum(len(paragraph["qas"]) for paragraph in article["paragraphs"])
    return {"version": document["version"], "data": chosen}


def write_scores(folder: Path, scores: dict[str, float], rows: int) -> None:
    """Record the dev scores of the fp32 checkpoint, in percent, with the number of rows."""
    rounded = {name: round(value, 4) for name, value in scores.items()}
    text = json.dumps({**rounded, "rows": rows}, indent=2, sort_keys=True)
    (folder / "scores.json").write_text(text + "\n", encoding="utf-8")


def score_checkpoint(folder: Path, name: str) -> tuple[dict[str, float], int]:
    """Score a saved checkpoint on the dev data in its folder, as `validate` scores its source.

    Args:
        folder: Checkpoint and tokenizer, with the data under `data`.
        name: A key of `DATASETS`.

    Returns:
        Metrics in percent, and the number of rows.
    """
    from albert_deploy.export.checkpoint import load_model
    from albert_deploy.export.source import find_checkpoint
    from albert_deploy.export.step import describe_contract
    from albert_deploy.export.tokenizer import write_tokenizer
    from albert_deploy.runtime.tasks.tokenize import load_tokenizer
    from albert_deploy.validation.data.table import DATASETS
    from albert_deploy.validation.evaluate.evaluate import EvaluateConfig, evaluate
    from albert_deploy.validation.evaluate.reference import TorchSession
    from albert_deploy.validation.evaluate.workers import SOURCE

    task = DATASETS[name].task
    source = find_checkpoint(str(folder))
    loaded = load_model(source, task)
    with tempfile.TemporaryDirectory() as scratch:
        limits = write_tokenizer(folder, Path(scratch), source.config)
    contract = describe_contract(task, loaded.config, limits)
    with TorchSession(loaded.model, tuple(o["name"] for o in contract["outputs"])) as session:
        evidence = evaluate(
            {SOURCE: session},
            contract=contract,
            task=task,
            tokenizer=load_tokenizer(folder),
            decide={},  # how a variant is compared with the source; there is none
            dataset=(name, folder / "data"),
            config=EvaluateConfig(),
        )
    return evidence.metrics[SOURCE], evidence.rows


def make_sst2(folder: Path) -> dict[str, float]:
    """Generate the SST-2 style sample into a folder, train its checkpoint and score it."""
    train, dev = review_rows()
    shipped = [(row.text, row.label) for row in train[:SHIPPED_REVIEWS]]
    write_reviews(folder / "data" / "train.tsv", shipped)
    write_reviews(folder / "data" / "dev.tsv", [(row.text, row.label) for row in dev])
    pieces = vocabulary.learn_pieces(vocabulary.vocabulary_texts(), vocabulary.PIECES)
    vocabulary.write_tokenizer(folder, pieces, training.REVIEW_LENGTH)
    tokenizer = vocabulary.build_tokenizer(pieces)
    model = training.train_reviews(tokenizer, train)
    training.save_checkpoint(model, folder)
    scores, rows = score_checkpoint(folder, "sst2")
    write_scores(folder, scores, rows)
    return scores


def make_squad(folder: Path) -> dict[str, float]:
    """Generate the SQuAD style sample into a folder, train its checkpoint and score it."""
    train, easy, dev_pages = question_pages()
    shipped = first_questions(as_squad(train, mark="train"), SHIPPED_QUESTIONS)
    write_questions(folder / "data" / "train-v1.1.json", shipped)
    write_questions(folder / "data" / "dev-v1.1.json", as_squad(dev_pages, mark="dev"))
    pieces = vocabulary.learn_pieces(vocabulary.vocabulary_texts(), vocabulary.PIECES)
    vocabulary.write_tokenizer(folder, pieces, training.QUESTION_LENGTH)
    tokenizer = vocabulary.build_tokenizer(pieces)
    model = training.train_questions(tokenizer, train, easy)
    training.save_checkpoint(model, folder)
    scores, rows = score_checkpoint(folder, "squad")
    write_scores(folder, scores, rows)
    return scores


MAKERS: Final[dict[str, Callable[[Path], dict[str, float]]]] = {
    "sst2": make_sst2,
    "squad": make_squad,
}


def compare(task: str, kept: Path, fresh: Path, scores: dict[str, float]) -> list[str]:
    """List what keeps a fresh run from reproducing a committed sample; empty if nothing does.

    Data and tokenizer have to be equal byte for byte. Weights may differ between machines and
    torch versions; then the fresh score has to lie within one point of the recorded one. Equal
    weights have to have the recorded scores.
    """

    def equal(name: str) -> bool:
        return (kept / name).is_file() and filecmp.cmp(kept / name, fresh / name, shallow=False)

    faults = [f"{task}: {name} differs" for name in EXACT_FILES[task] if not equal(name)]
    if not faults:
        click.echo(f"{task}: data and tokenizer are reproduced")
    weights, record = "model.safetensors", "scores.json"
    missing = [name for name in (weights, record) if not (kept / name).is_file()]
    if missing:
        return [*faults, *(f"{task}: {name} is missing" for name in missing)]
    if equal(weights):
        click.echo(f"{task}: weights are reproduced")
        return faults if equal(record) else [*faults, f"{task}: {record} differs"]
    name = MAIN_SCORE[task]
    recorded = json.loads((kept / record).read_text(encoding="utf-8"))[name]
    click.echo(f"{task}: weights differ; {name} {scores[name]:.2f}, recorded {recorded:.2f}")
    if abs(recorded - scores[name]) > TOLERATED_POINTS:
        faults.append(f"{task}: {name} is {scores[name]:.2f}, not near {recorded:.2f}")
    return faults


@click.command()
@click.option(
    "--task",
    type=click.Choice([*TASKS, "all"]),
    default="all",
    show_default=True,
    help="Which sample to make.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("export/samples"),
    show_default=True,
    help="Folder that holds one folder for each task.",
)
@click.option(
    "--check", is_flag=True, help="Compare a fresh run with OUT; exit with 1 where they differ."
)
def main(task: str, out: Path, check: bool) -> None:
    """Generate the sample data and train the sample checkpoints on one CPU thread."""
    faults: list[str] = []
    for name in TASKS if task == "all" else (task,):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) if check else out / name
            folder.mkdir(parents=True, exist_ok=True)
            scores = MAKERS[name](folder)
            listed = ", ".join(f"{key} {value:.2f}" for key, value in sorted(scores.items()))
            click.echo(f"{name}: {listed}")
            if check:
                faults += compare(name, out / name, folder, scores)
    if check:
        for fault in faults:
            click.echo(fault, err=True)
        click.echo("not reproduced" if faults else "reproduced")
        if faults:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
