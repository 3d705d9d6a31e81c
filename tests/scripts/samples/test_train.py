import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from albert_deploy.runtime.tasks.tokenize import load_tokenizer, windows
from albert_deploy.scripts.samples import reviews, training
from albert_deploy.scripts.samples import train as command
from albert_deploy.scripts.samples.paragraphs import (
    Page,
    as_squad,
    generate_pages,
    paragraph,
    question_pages,
)
from albert_deploy.scripts.samples.reviews import Draw, clause, generate_reviews, unmarked
from albert_deploy.scripts.samples.training import Recipe, graded_batches
from albert_deploy.scripts.samples.vocabulary import SPECIALS
from albert_deploy.validation.data.datasets import read_dataset

SAMPLE = Path(__file__).parents[3] / "export" / "samples"
LIMIT = 4 * 2**20


@pytest.fixture(scope="module")
def review_rows():
    return reviews.review_rows(4 * command.SHIPPED_REVIEWS)


@pytest.fixture(scope="module", name="question_pages")
def few_pages():
    return question_pages(4 * command.SHIPPED_QUESTIONS, 2_000)


@pytest.fixture
def one_thread():
    """More threads are slower on models as small as these, and much slower on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def read_document(name):
    return json.loads((SAMPLE / "squad" / "data" / name).read_text(encoding="utf-8"))


def test_reviews_reproduce_committed_files(review_rows, tmp_path):
    train, dev = review_rows
    for name, rows in (("train.tsv", train[: command.SHIPPED_REVIEWS]), ("dev.tsv", dev)):
        command.write_reviews(tmp_path / name, [(row.text, row.label) for row in rows])
        committed = SAMPLE / "sst2" / "data" / name
        assert (tmp_path / name).read_bytes() == committed.read_bytes()


def test_questions_reproduce_committed_files(question_pages, tmp_path):
    train, _, dev = question_pages
    shipped = command.first_questions(as_squad(train, mark="train"), command.SHIPPED_QUESTIONS)
    documents = {"train-v1.1.json": shipped, "dev-v1.1.json": as_squad(dev, mark="dev")}
    for name, document in documents.items():
        command.write_questions(tmp_path / name, document)
        committed = SAMPLE / "squad" / "data" / name
        assert (tmp_path / name).read_bytes() == committed.read_bytes()


def test_another_seed_gives_other_reviews():
    first, again, other = (generate_reviews(20, seed=s, held_out=True) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_no_dev_review_occurs_in_training(review_rows):
    train, dev = review_rows
    assert len({row.text for row in dev}) == len(dev) == reviews.DEV_REVIEWS
    assert not {row.text for row in dev} & {row.text for row in train}


def test_excluded_review_is_not_generated():
    first = generate_reviews(200, seed=1, held_out=False)
    taken = frozenset(row.text for row in first[:50])
    assert not taken & {
        row.text for row in generate_reviews(200, seed=1, held_out=False, exclude=taken)
    }


def test_no_dev_context_occurs_in_training(question_pages):
    train, easy, dev = question_pages
    contexts = {page.paragraph.text for page in [*train, *easy]}
    assert not contexts & {page.paragraph.text for page in dev}


@pytest.mark.medium
def test_no_dev_row_occurs_in_the_whole_training_set():
    train, dev = reviews.review_rows()
    assert not {row.text for row in dev} & {row.text for row in train}
    pages, easy, dev_pages = question_pages()
    contexts = {page.paragraph.text for page in [*pages, *easy]}
    assert not contexts & {page.paragraph.text for page in dev_pages}


@pytest.mark.parametrize("name", ["train.tsv", "dev.tsv"])
def test_reviews_have_glue_layout(name):
    text = (SAMPLE / "sst2" / "data" / name).read_text(encoding="utf-8")
    header, *lines = text.splitlines()
    assert header == "sentence\tlabel"
    assert text.endswith("\n")
    assert all(line.count("\t") == 1 and line.rsplit("\t")[1] in {"0", "1"} for line in lines)
    assert not set("\x01\x02\x03") & set(text)
    rows = read_dataset("sst2", SAMPLE / "sst2" / "data" / name)
    positive = sum(row.label for row in rows) / len(rows)
    assert 0.45 <= positive <= 0.55
    lengths = [len(row.text.split()) for row in rows]
    assert min(lengths) <= 4
    assert max(lengths) >= 35


def test_dev_reviews_are_balanced():
    rows = read_dataset("sst2", SAMPLE / "sst2" / "data")
    assert sum(row.label for row in rows) * 2 == len(rows)


@pytest.mark.parametrize(("name", "fewest"), [("train-v1.1.json", 300), ("dev-v1.1.json", 500)])
def test_questions_have_squad_layout(name, fewest):
    document = read_document(name)
    assert document["version"] == "1.1"
    asked = [
        (part["context"], entry)
        for article in document["data"]
        for part in article["paragraphs"]
        for entry in part["qas"]
    ]
    assert len(asked) >= fewest
    for context, entry in asked:
        assert entry["question"].endswith("?")
        assert 1 <= len(entry["answers"]) <= 3
        for answer in entry["answers"]:
            start = answer["answer_start"]
            assert context[start : start + len(answer["text"])] == answer["text"]
            assert 1 <= len(answer["text"].split()) <= 6
    assert len({entry["id"] for _, entry in asked}) == len(asked)


def test_some_dev_contexts_need_several_windows():
    tokenizer = load_tokenizer(SAMPLE / "squad")
    counts = [
        len(
            windows(
                tokenizer,
                row.question,
                row.context,
                max_length=training.QUESTION_LENGTH,
                stride=training.STRIDE,
                max_query_length=training.QUERY_LENGTH,
            )
        )
        for row in read_dataset("squad", SAMPLE / "squad" / "data")
    ]
    assert 0.02 < sum(count > 1 for count in counts) / len(counts) < 0.3


@pytest.mark.parametrize("task", ["sst2", "squad"])
def test_files_are_small_and_name_no_place(task):
    folder = SAMPLE / task
    assert (folder / "model.safetensors").stat().st_size <= LIMIT
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert not {"_name_or_path", "transformers_version"} & set(config)
    assert config["embedding_size"] != config["hidden_size"]
    assert config["num_hidden_groups"] == 1


@pytest.mark.parametrize("task", ["sst2", "squad"])
def test_tokenizer_follows_albert(task):
    tokenizer = load_tokenizer(SAMPLE / task)
    assert [tokenizer.token_to_id(token) for token in SPECIALS] == [0, 1, 2, 3, 4]
    assert 1000 <= tokenizer.get_vocab_size() <= 4000
    pair = tokenizer.encode("Who Founded  Ashford?", "The Café was founded by Anna Holley.")
    middle = pair.ids.index(3)
    assert (pair.ids[0], pair.ids[-1]) == (2, 3)
    assert pair.type_ids == [0] * (middle + 1) + [1] * (len(pair.ids) - middle - 1)
    context = "The Café was founded by Anna Holley."
    alone = tokenizer.encode(context, add_special_tokens=False)
    begin = context.index("Holley")
    pieces = [o for o in alone.offsets if begin <= o[0] < begin + len("Holley")]
    assert pieces[0][0] == begin


@pytest.mark.parametrize("task", ["sst2", "squad"])
def test_transformers_reads_the_same_tokenizer(task):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(SAMPLE / task)
    pair = ("Who is not  dull?", "The Kesssen lamp, a GOOD one, cost 12 crowns in 1802.")
    mine = load_tokenizer(SAMPLE / task).encode(*pair)
    theirs = loaded(*pair, return_offsets_mapping=True)
    assert theirs["input_ids"] == mine.ids
    assert theirs["token_type_ids"] == mine.type_ids
    assert theirs["offset_mapping"] == mine.offsets
    assert loaded.model_max_length in {training.REVIEW_LENGTH, training.QUESTION_LENGTH}


def test_marks_leave_spans():
    assert unmarked("a \x01bc\x03 d \x02e\x03") == ("a bc d e", ((2, 4, -1), (7, 8, 1)))


def test_wanted_sign_is_kept():
    import random

    draw = Draw(rng=random.Random(0), held_out=False)
    assert all(clause(draw, sign).score * sign > 0 for sign in (1, -1) for _ in range(100))


def test_every_answer_occurs_once():
    import random

    told = paragraph(random.Random(0), held_out=True, subjects=3, per_subject=4, asides=2)
    assert told.facts
    assert all(told.text.lower().count(fact.answer.lower()) == 1 for fact in told.facts)
    assert all(told.text[e - 1] == "." for _, e, _ in told.sentences)


def test_odd_count_is_refused():
    with pytest.raises(ValueError, match="even"):
        generate_reviews(3, seed=1, held_out=False)


def test_question_count_is_exact():
    pages = generate_pages(50, seed=3, held_out=False, most_answers=1, long_share=0.0)
    assert sum(len(page.questions) for page in pages) == 50


def test_plan_grows_in_length():
    lengths = [5] * 50 + [20] * 50 + [40] * 50
    recipe = Recipe(steps=400, batch_rows=4, learning_rate=1e-3, first_cap=5, last_cap=40, bend=1.0)
    plan = graded_batches(lengths, recipe, range(100, 150))
    assert [len(batch) for batch in plan] == [4] * 400
    assert all(lengths[i] == 5 for batch in plan[:40] for i in batch)
    assert all(i >= 100 for batch in plan[-20:] for i in batch)
    with pytest.raises(ValueError, match="no row"):
        graded_batches([9], recipe, range(1))


def test_training_rows_mark_their_answers(question_pages, monkeypatch):
    # Short windows, so that edges of windows fall into answers.
    monkeypatch.setattr(training, "QUESTION_LENGTH", 80)
    monkeypatch.setattr(training, "STRIDE", 24)
    tokenizer = load_tokenizer(SAMPLE / "squad")
    train, _, _ = question_pages
    several = 0
    for page in train[:300]:
        for question in page.questions:
            one = Page(paragraph=page.paragraph, questions=(question,))
            rows = training.question_rows(tokenizer, [one])
            several += len(rows) > 1
            marked = [row for row in rows if row.last]
            assert marked
            for row in rows:
                assert len(row.ids) <= training.QUESTION_LENGTH
                assert bool(row.first) == bool(row.last)
                assert all(
                    t or not (a or s)
                    for t, a, s in zip(row.type_ids, row.about, row.same, strict=True)
                )
            for row in marked:
                found = tokenizer.decode(list(row.ids[row.first : row.last + 1]))
                assert question.answers[0][0].lower() in found
                assert all(row.same[row.first : row.last + 1])
                assert all(row.about[row.first : row.last + 1])
    assert several


def fake_maker(text, accuracy):
    def make(folder):
        for name in [*command.EXACT_FILES["sst2"], "model.safetensors"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text if "model" in name else name)
        command.write_scores(folder, {"accuracy": accuracy}, 800)
        return {"accuracy": accuracy}

    return make


@pytest.mark.parametrize(
    ("text", "accuracy", "code"),
    [("w", 92.0, 0), ("w", 92.1, 1), ("other", 92.9, 0), ("other", 90.9, 1)],
)
def test_check_judges_weights_by_score(text, accuracy, code, tmp_path, monkeypatch):
    (tmp_path / "sst2").mkdir()
    fake_maker("w", 92.0)(tmp_path / "sst2")
    monkeypatch.setitem(command.MAKERS, "sst2", fake_maker(text, accuracy))
    arguments = ["--task", "sst2", "--out", str(tmp_path), "--check"]
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == code, result.output
    assert ("not reproduced" in result.output) == bool(code)
    assert ("weights are reproduced" in result.output) == (text == "w")
    assert "data and tokenizer are reproduced" in result.output


def test_check_sees_changed_data(tmp_path, monkeypatch):
    (tmp_path / "sst2").mkdir()
    fake_maker("w", 92.0)(tmp_path / "sst2")
    (tmp_path / "sst2" / "data" / "dev.tsv").write_text("tampered")
    monkeypatch.setitem(command.MAKERS, "sst2", fake_maker("w", 92.0))
    arguments = ["--task", "sst2", "--out", str(tmp_path), "--check"]
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 1
    assert "data/dev.tsv differs" in result.output
    assert "data and tokenizer are reproduced" not in result.output


@pytest.mark.parametrize("name", ["model.safetensors", "scores.json"])
def test_check_names_what_is_missing(name, tmp_path, monkeypatch):
    (tmp_path / "sst2").mkdir()
    fake_maker("w", 92.0)(tmp_path / "sst2")
    (tmp_path / "sst2" / name).unlink()
    monkeypatch.setitem(command.MAKERS, "sst2", fake_maker("w", 92.0))
    arguments = ["--task", "sst2", "--out", str(tmp_path), "--check"]
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 1
    assert f"{name} is missing" in result.output


def test_help_loads_no_torch():
    code = (
        "import sys; from click.testing import CliRunner;"
        "from albert_deploy.scripts.samples.train import main;"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("one_thread")
def test_score_is_of_the_dev_data(tmp_path):
    shutil.copytree(SAMPLE / "sst2", tmp_path / "sst2")
    rows = [(row.text, row.label) for row in read_dataset("sst2", SAMPLE / "sst2" / "data")[:40]]
    dev = tmp_path / "sst2" / "data" / "dev.tsv"
    found = []
    for turn in (0, 1):
        command.write_reviews(dev, [(text, label ^ turn) for text, label in rows])
        scores, count = command.score_checkpoint(tmp_path / "sst2", "sst2")
        assert count == len(rows)
        found.append(scores["accuracy"])
    assert found[0] > 80
    assert sum(found) == pytest.approx(100)


@pytest.mark.medium
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("task", "lowest", "highest"), [("sst2", 88, 97), ("squad", 75, 95)])
def test_checkpoint_has_its_recorded_scores(task, lowest, highest):
    found, rows = command.score_checkpoint(SAMPLE / task, task)
    assert lowest <= found[command.MAIN_SCORE[task]] <= highest
    recorded = json.loads((SAMPLE / task / "scores.json").read_text(encoding="utf-8"))
    assert recorded.pop("rows") == rows
    # One row may turn on another machine.
    assert found == pytest.approx(recorded, abs=100.01 / rows)


def test_classifier_names_its_labels():
    config = json.loads((SAMPLE / "sst2" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "negative", "1": "positive"}
