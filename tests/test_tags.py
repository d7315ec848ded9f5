"""Legal sequences of tags: the best one is found, in every scheme, and by every way of asking."""

import itertools
import json

import datasets
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_tasks import settings_for
from test_train_command import TAG, predictions, run, write

from seqblend import Predictor
from seqblend.data.errors import InputError
from seqblend.predict import main as predict
from seqblend.scoring.tags import SCHEMES, TagConstraints, TagScheme, describe_scheme, find_scheme, tag_constraints
from seqblend.tasks import token_classification
from seqblend.tasks.registry import TASKS

LETTERS = {
    "IO": "I",
    "IOB2": "BI",
    "IOB1": "BI",
    "IOE2": "IE",
    "IOE1": "IE",
    "IOBES": "BIES",
    "BILOU": "BILU",
    "BMES": "BMES",
    "BMEWO": "BMEW",
}


def labels_of(name, types=("x", "y"), pattern="{letter}-{type}"):
    return ["O", *(pattern.format(letter=letter, type=kind) for kind in types for letter in LETTERS[name])]


def scheme_of(name, labels=None):
    scheme = find_scheme(labels or labels_of(name), name)
    assert scheme.name == name
    return scheme


@given(data=st.data(), name=st.sampled_from(sorted(SCHEMES)), count=st.integers(1, 4))
@settings(max_examples=150)
def test_the_best_legal_sequence_is_that_of_brute_force(data, name, count):
    labels = labels_of(name)
    legal = tag_constraints(labels, scheme_of(name))
    size = (count, len(labels))
    scores = np.array(
        data.draw(st.lists(st.integers(-50, 50), min_size=size[0] * size[1], max_size=size[0] * size[1]))
    )
    scores = scores.reshape(size) / 7
    every = map(np.array, itertools.product(range(len(labels)), repeat=count))
    sums = {tuple(tags): scores[range(count), tags].sum() for tags in every if legal.is_legal(tags)}
    found = tuple(legal.viterbi(scores))
    assert sums[found] == pytest.approx(max(sums.values()))


@given(data=st.data(), name=st.sampled_from(sorted(SCHEMES)))
@settings(max_examples=100)
def test_what_is_written_in_a_scheme_is_legal_and_read_as_the_same_spans(data, name):
    """Spans of words, written by the definition of each scheme; two neighbours of one type are told apart."""
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["x", "y", None])), max_size=6))
    spans, tags, start = [], [], 0
    for index, (size, kind) in enumerate(sizes):
        before = sizes[index - 1][1] if index else None
        after = sizes[index + 1][1] if index + 1 < len(sizes) else None
        assume(name != "IO" or kind is None or kind not in (before, after))
        tags += (
            ["O"] * size
            if kind is None
            else [f"{each}-{kind}" for each in write_span(name, size, kind, before, after)]
        )
        spans += [] if kind is None else [(kind, start, start + size - 1)]
        start += size
    labels = labels_of(name)
    legal = tag_constraints(labels, scheme_of(name))
    assert legal.is_legal(np.array([labels.index(tag) for tag in tags], dtype=int))
    assert scheme_of(name).spans(tags) == spans


def write_span(name, size, kind, before, after):
    """The letters of a span between neighbours of these types."""
    letters = ["I"] * size
    if name == "IOB2" or (name == "IOB1" and before == kind):
        letters[0] = "B"
    if name == "IOE2" or (name == "IOE1" and after == kind):
        letters[-1] = "E"
    if name in ("IOBES", "BILOU", "BMES", "BMEWO"):
        begin, inside, end, single = {"IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEWO": "BMEW"}[name]
        letters = [single] if size == 1 else [begin, *[inside] * (size - 2), end]
    return letters


# In other spellings than with a hyphen behind the capital letter, labels without a B may be no tags.
SPELLINGS = [
    (name, pattern, change)
    for name in SCHEMES
    for pattern in ("{letter}-{type}", "{letter}_{type}", "{type}-{letter}", "{type}_{letter}")
    for change in (str, str.lower)
    if "B" in LETTERS[name] or (pattern, change) == ("{letter}-{type}", str)
]


@pytest.mark.parametrize(("name", "pattern", "change"), SPELLINGS)
def test_every_spelling_has_the_same_rules(name, pattern, change):
    usual, other = labels_of(name), [change(label) for label in labels_of(name, pattern=pattern)]
    one, two = (tag_constraints(labels, scheme_of(name, labels)) for labels in (usual, other))
    assert (
        (one.transition_allowed == two.transition_allowed).all()
        and (one.start_allowed == two.start_allowed).all()
        and (one.end_allowed == two.end_allowed).all()
    )


def test_an_inside_tag_after_another_type_is_not_legal_in_IOB2():
    labels = ["O", "B-x", "I-x", "B-y", "I-y"]
    legal = tag_constraints(labels, find_scheme(labels))
    scores = np.full((2, 5), -5.0)
    scores[0, 1], scores[1, 4], scores[1, 2] = 5, 4, 3.5
    assert [labels[tag] for tag in scores.argmax(-1)] == ["B-x", "I-y"]
    assert [labels[tag] for tag in legal.viterbi(scores)] == ["B-x", "I-x"]


def test_scores_that_are_not_finite_still_give_a_legal_sequence():
    labels = ["O", "B-x", "I-x"]
    legal = tag_constraints(labels, find_scheme(labels))
    for value in (-np.inf, np.nan):
        scores = np.full((3, 3), value)
        scores[:, 2] = 1
        assert legal.is_legal(legal.viterbi(scores))


def test_where_no_sequence_is_legal_the_most_probable_tags_are_given():
    labels = ["B-x", "E-x"]
    legal = TagConstraints(labels, TagScheme("IOBES", find_scheme(labels).pattern))
    assert legal.viterbi(np.array([[0.0, 1.0]])).tolist() == [1]
    assert legal.viterbi(np.array([[0.0, 1.0], [1.0, 0.0]])).tolist() == [0, 1]


@pytest.mark.parametrize(
    "sentences, name",
    [([["I-x", "I-x", "B-x"], ["O", "I-y"]], "IOB1"), ([["B-x", "I-x"], ["O", "B-y"], ["I-x"]], "IOB2"), ([], "IOB2")],
)
def test_training_tells_two_schemes_with_the_same_letters(sentences, name):
    assert find_scheme(["O", "B-x", "I-x", "B-y", "I-y"], sentences=sentences).name == name


def test_a_scheme_of_other_letters_is_not_believed():
    assert find_scheme(["O", "B-x", "I-x"], "BMES").name == "IOB2"
    assert find_scheme(["NOUN", "VERB"], "IOB2") is None


def test_a_label_that_no_legal_sequence_has_is_named():
    labels = ["O", "B-x", "I-x", "I-y"]
    assert describe_scheme(labels, scheme_of("IOB2", labels)).endswith("no legal sequence has them: I-y")
    assert describe_scheme(labels, scheme_of("IOB2", labels), "greedy").endswith(
        "predicts the most probable tag of each word"
    )


def test_a_mix_of_letters_is_scored_as_spans_and_not_decoded():
    labels = ["O", "B-x", "M-x", "L-x"]
    scheme = find_scheme(labels)
    assert tag_constraints(labels, scheme) is None
    assert "a mix of B, L, M" in describe_scheme(labels, scheme)
    rows = datasets.Dataset.from_dict({"tags": [labels]})
    assert TASKS[TAG].config_fields_from_rows(rows, labels) == {"tag_scheme": None}


@pytest.mark.parametrize(
    ("options", "most", "keeps"),
    [
        ({"overflow": "window"}, 2 * 64 * 3, True),
        ({"overflow": "window"}, 2 * 64 * 3 - 1, False),
        ({"overflow": "window", "decode_tags": "greedy"}, 10**9, False),
        ({}, 10**9, False),
    ],
)
def test_logits_are_kept_for_windows_that_are_decoded_together(options, most, keeps, monkeypatch, caplog):
    """For two of at most 64 tokens with three labels; else they would only fill the memory."""
    monkeypatch.setattr(token_classification, "MOST_LOGITS", most)
    settings = settings_for(None, labels=["O", "B-x", "I-x"], **options)
    assert (TASKS[TAG].logits_reducer(settings, 2) is None) == keeps
    assert ("each is decoded by itself" in caplog.text) == (most < 2 * 64 * 3)


# --- Slots, through the commands ---

CITIES, DAYS = ["new york", "seoul", "los angeles", "new delhi"], ["next monday", "today", "this week"]


def slot_rows(count, seed, scheme="IOB2"):
    """Sentences like those of a voice assistant, whose words are ambiguous: `new` and `this` begin no span alone."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        tokens, tags = [], []
        for kind, choices in (("city", CITIES), ("day", DAYS)):
            tokens.append(str(rng.choice(["to", "from", "new", "this", "is"])))
            tags.append("O")
            span = str(rng.choice(choices)).split()
            tokens += span
            tags += [f"{letter}-{kind}" for letter in write_span(scheme, len(span), kind, None, None)]
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def is_legal(rows, name):
    labels = labels_of(name, ("city", "day"))
    legal = tag_constraints(labels, scheme_of(name, labels))
    return [legal.is_legal(np.array([labels.index(tag) for tag in row])) for row in rows]


@pytest.fixture(scope="module", params=["truncate", "window"])
def slots(request, tmp_path_factory):
    """A tagger that has hardly learnt anything, so that most of its best tags are illegal; and its windows."""
    root = tmp_path_factory.mktemp("slots")
    windows = {"overflow": "window", "overlap": 2} if request.param == "window" else {}
    data = {
        f"{split}_file": write(root / f"{split}.jsonl", slot_rows(24, seed))
        for seed, split in enumerate(("train", "validation", "test"))
    }
    options = {"max_steps": 4, "learning_rate": 1e-2, "max_length": 14, "per_device_eval_batch_size": 5, "seed": 3}
    return run(root / "out", task=TAG, **data, **options, **windows), root / "test.jsonl", windows


def asked(directory, file, target, *flags):
    said = ["--input", file, "--output", target, *flags]
    assert predict([str(directory), *map(str, said)]) == 0
    return [json.loads(line) for line in target.read_text().splitlines()]


def test_no_prediction_breaks_the_scheme(slots, tmp_path):
    directory, file, windows = slots
    flags = [word for name, value in windows.items() for word in (f"--{name}", str(value))]
    in_training = [row["prediction"] for row in predictions(directory)]
    answers = asked(directory, file, tmp_path / "legal.jsonl", *flags)
    greedy = asked(directory, file, tmp_path / "greedy.jsonl", "--decode_tags", "greedy", *flags)
    assert [answer["prediction"] for answer in answers] == in_training
    assert all(is_legal(in_training, "IOB2"))
    assert not all(is_legal([answer["prediction"] for answer in greedy], "IOB2")), "the test shows nothing"


def test_the_score_of_a_word_is_the_probability_of_its_tag(slots, tmp_path):
    directory, _file, windows = slots
    predictor = Predictor(directory, probabilities=True, **windows)
    answers = predictor({"tokens": [row["tokens"] for row in slot_rows(24, 2)]})
    rows = zip(answers["prediction"], answers["scores"], answers["probabilities"], strict=True)
    for tags, scores, probabilities in rows:
        for tag, score, each in zip(tags, scores, probabilities, strict=True):
            assert each is None or each[tag] == pytest.approx(score)


def test_the_scheme_of_training_is_kept_with_the_model(tmp_path):
    """IOB1 has the letters of IOB2; of the labels alone it would be read as that."""
    rows = [*slot_rows(24, 0, "IOB1"), {"tokens": ["seoul", "seoul"], "tags": ["I-city", "B-city"]}]
    rows += [{"tokens": ["today", "today"], "tags": ["I-day", "B-day"]}]
    data = {f"{split}_file": write(tmp_path / f"{split}.jsonl", rows) for split in ("train", "test")}
    directory = run(tmp_path / "out", task=TAG, max_steps=2, **data)
    assert json.loads((directory / "config.json").read_text())["tag_scheme"] == "IOB1"
    answers = asked(directory, data["test_file"], tmp_path / "answers.jsonl")
    assert all(is_legal([answer["prediction"] for answer in answers], "IOB1"))


def test_without_rules_each_word_has_its_most_probable_tag(slots):
    answers = Predictor(slots[0], probabilities=True, decode_tags="greedy", **slots[2])(
        {"tokens": [row["tokens"] for row in slot_rows(24, 2)]}
    )
    for tags, probabilities in zip(answers["prediction"], answers["probabilities"], strict=True):
        for tag, each in zip(tags, probabilities, strict=True):
            # None for a word that was cut off.
            assert each is None or tag == max(each, key=each.get)


def test_an_unknown_decoding_is_refused(slots, tmp_path):
    with pytest.raises(InputError, match="decode_tags: unknown value 'gready'; valid are greedy"):
        Predictor(slots[0], decode_tags="gready")
