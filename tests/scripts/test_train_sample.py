import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from albert_deploy.scripts import sample_classifier, sample_reader, train_sample
from albert_deploy.scripts.sample_clauses import Draw, clause
from albert_deploy.scripts.sample_paragraphs import paragraph
from albert_deploy.scripts.sample_questions import as_squad, generate
from albert_deploy.scripts.sample_reviews import generate as generate_reviews
from albert_deploy.scripts.sample_reviews import unmarked
from albert_deploy.scripts.sample_scoring import (
    answer_scores,
    best_span,
    cut_windows,
    flatten,
    question_scores,
    read_reviews,
    review_scores,
)
from albert_deploy.scripts.sample_training import Recipe, graded_batches
from albert_deploy.scripts.sample_vocabulary import SPECIALS

SAMPLE = Path(__file__).parents[2] / "validation" / "sample"
LIMIT = 4 * 2**20


@pytest.fixture(scope="module")
def review_rows():
    return sample_classifier.review_rows(4 * train_sample.SHIPPED_REVIEWS)


@pytest.fixture(scope="module")
def question_pages():
    return sample_reader.question_pages(4 * train_sample.SHIPPED_QUESTIONS, 2_000)


def read_document(name):
    return json.loads((SAMPLE / "squad" / "data" / name).read_text(encoding="utf-8"))


def tokenizer_of(task):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(SAMPLE / task / "tokenizer.json"))


def test_reviews_reproduce_committed_files(review_rows, tmp_path):
    train, dev = review_rows
    for name, rows in (("train.tsv", train[: train_sample.SHIPPED_REVIEWS]), ("dev.tsv", dev)):
        train_sample.write_reviews(tmp_path / name, [(row.text, row.label) for row in rows])
        committed = SAMPLE / "sst2" / "data" / name
        assert (tmp_path / name).read_bytes() == committed.read_bytes()


def test_questions_reproduce_committed_files(question_pages, tmp_path):
    train, _, dev = question_pages
    shipped = train_sample.first_questions(
        as_squad(train, mark="train"), train_sample.SHIPPED_QUESTIONS
    )
    documents = {"train-v1.1.json": shipped, "dev-v1.1.json": as_squad(dev, mark="dev")}
    for name, document in documents.items():
        train_sample.write_questions(tmp_path / name, document)
        committed = SAMPLE / "squad" / "data" / name
        assert (tmp_path / name).read_bytes() == committed.read_bytes()


def test_another_seed_gives_other_reviews():
    first, again, other = (generate_reviews(20, seed=s, held_out=True) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_no_dev_review_occurs_in_training(review_rows):
    train, dev = review_rows
    assert len({row.text for row in dev}) == len(dev) == sample_classifier.DEV_REVIEWS
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


@pytest.mark.slow
def test_no_dev_row_occurs_in_the_whole_training_set():
    train, dev = sample_classifier.review_rows()
    assert not {row.text for row in dev} & {row.text for row in train}
    pages, easy, dev_pages = sample_reader.question_pages()
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
    rows = read_reviews(SAMPLE / "sst2" / "data" / name)
    positive = sum(label for _, label in rows) / len(rows)
    assert 0.45 <= positive <= 0.55
    lengths = [len(sentence.split()) for sentence, _ in rows]
    assert min(lengths) <= 4
    assert max(lengths) >= 35


def test_dev_reviews_are_balanced():
    rows = read_reviews(SAMPLE / "sst2" / "data" / "dev.tsv")
    assert sum(label for _, label in rows) * 2 == len(rows)


@pytest.mark.parametrize(("name", "fewest"), [("train-v1.1.json", 300), ("dev-v1.1.json", 500)])
def test_questions_have_squad_layout(name, fewest):
    document = read_document(name)
    assert document["version"] == "1.1"
    flat = flatten(document)
    assert len(flat) >= fewest
    for context, question, answers in flat:
        assert question.endswith("?")
        assert 1 <= len(answers) <= 3
        for answer in answers:
            start = answer["answer_start"]
            assert context[start : start + len(answer["text"])] == answer["text"]
            assert 1 <= len(answer["text"].split()) <= 6
    ids = [
        entry["id"]
        for article in document["data"]
        for part in article["paragraphs"]
        for entry in part["qas"]
    ]
    assert len(set(ids)) == len(ids)


def test_some_dev_contexts_need_several_windows():
    tokenizer = tokenizer_of("squad")
    counts = [
        len(
            cut_windows(
                tokenizer,
                question,
                context,
                length=sample_reader.LENGTH,
                stride=sample_reader.STRIDE,
            )
        )
        for context, question, _ in flatten(read_document("dev-v1.1.json"))
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
    tokenizer = tokenizer_of(task)
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
    mine = tokenizer_of(task).encode(*pair)
    theirs = loaded(*pair, return_offsets_mapping=True)
    assert theirs["input_ids"] == mine.ids
    assert theirs["token_type_ids"] == mine.type_ids
    assert theirs["offset_mapping"] == mine.offsets
    assert loaded.model_max_length in {sample_classifier.LENGTH, sample_reader.LENGTH}


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
    pages = generate(50, seed=3, held_out=False, most_answers=1, long_share=0.0)
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


def test_scores_follow_squad():
    scores = answer_scores(["The  Red Mill", "1902"], [["red mill"], ["in 1902", "1902"]])
    assert scores == {"exact_match": 100.0, "f1": 100.0}
    assert answer_scores(["red mill"], [["red barn"]]) == {"exact_match": 0.0, "f1": 50.0}
    with pytest.raises(ValueError, match="predictions"):
        answer_scores([], [])


def test_windows_cover_context_and_spans_cross_no_order():
    tokenizer = tokenizer_of("squad")
    context = " ".join(f"word{i}" for i in range(60))
    windows = cut_windows(tokenizer, "Who?", context, length=40, stride=10)
    assert len(windows) > 1
    assert all(len(window.ids) <= 40 for window in windows)
    covered = {offset for window in windows for offset in window.offsets if offset}
    whole = tokenizer.encode(context, add_special_tokens=False).offsets
    assert covered == set(whole)
    size = [len(window.ids) for window in windows]
    start, end = [[0.0] * n for n in size], [[0.0] * n for n in size]
    last = len(windows[1].ids) - 2
    start[1][last], end[1][last - 2] = 9.0, 9.0
    begin, stop = best_span(windows, start, end)
    assert begin < stop
    with pytest.raises(ValueError, match="leaves"):
        cut_windows(tokenizer, "Who?", context, length=12, stride=10)


def fake_maker(text, accuracy):
    def make(folder):
        for name in [*train_sample.EXACT_FILES["sst2"], "model.safetensors"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text if "model" in name else name)
        train_sample.write_scores(folder, {"accuracy": accuracy}, 800)
        return {"accuracy": accuracy}

    return make


@pytest.mark.parametrize(
    ("text", "accuracy", "code"), [("w", 92.0, 0), ("other", 92.9, 0), ("other", 90.9, 1)]
)
def test_check_judges_weights_by_score(text, accuracy, code, tmp_path, monkeypatch):
    (tmp_path / "sst2").mkdir()
    fake_maker("w", 92.0)(tmp_path / "sst2")
    monkeypatch.setitem(train_sample.MAKERS, "sst2", fake_maker(text, accuracy))
    arguments = ["--task", "sst2", "--out", str(tmp_path), "--check"]
    result = CliRunner().invoke(train_sample.main, arguments)
    assert result.exit_code == code, result.output
    assert ("not reproduced" in result.output) == bool(code)


def test_check_sees_changed_data(tmp_path, monkeypatch):
    (tmp_path / "sst2").mkdir()
    fake_maker("w", 92.0)(tmp_path / "sst2")
    (tmp_path / "sst2" / "data" / "dev.tsv").write_text("tampered")
    monkeypatch.setitem(train_sample.MAKERS, "sst2", fake_maker("w", 92.0))
    arguments = ["--task", "sst2", "--out", str(tmp_path), "--check"]
    result = CliRunner().invoke(train_sample.main, arguments)
    assert result.exit_code == 1
    assert "data/dev.tsv differs" in result.output


def test_help_loads_no_torch():
    code = (
        "import sys; from click.testing import CliRunner;"
        "from albert_deploy.scripts.train_sample import main;"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_classifier_has_its_recorded_score():
    import torch
    from transformers import AlbertForSequenceClassification

    torch.set_num_threads(1)
    folder = SAMPLE / "sst2"
    model = AlbertForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.id2label == {0: "negative", 1: "positive"}
    rows = read_reviews(folder / "data" / "dev.tsv")
    found = review_scores(model, tokenizer_of("sst2"), rows)["accuracy"]
    recorded = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["accuracy"]
    assert 88 <= found <= 97
    assert found == pytest.approx(recorded, abs=0.15)


@pytest.mark.slow
def test_reader_has_its_recorded_score():
    import torch
    from transformers import AlbertForQuestionAnswering

    torch.set_num_threads(1)
    folder = SAMPLE / "squad"
    model = AlbertForQuestionAnswering.from_pretrained(folder).eval()
    found = question_scores(
        model,
        tokenizer_of("squad"),
        read_document("dev-v1.1.json"),
        length=sample_reader.LENGTH,
        stride=sample_reader.STRIDE,
    )
    recorded = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert 75 <= found["f1"] <= 95
    for name in ("exact_match", "f1"):
        assert found[name] == pytest.approx(recorded[name], abs=0.1)
