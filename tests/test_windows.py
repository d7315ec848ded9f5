"""Long texts as windows: everything is told exactly once, where most stands around it, and adds up to the document."""

import copy
import dataclasses

import datasets
import numpy as np
import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tasks import CHAR, TOKENIZERS, encode, predicted, settings_for
from transformers import ByT5Tokenizer

from seqblend.data.errors import InputError
from seqblend.modeling.encoder import BlendEncoderForTokenClassification
from seqblend.tasks.corruption import IGNORE
from seqblend.tasks.encoding import tokenize
from seqblend.tasks.registry import TASKS
from seqblend.tasks.splits import SplitScorer, encode_split
from seqblend.tasks.token_classification import labelled_words, tokenize_words
from seqblend.tasks.windows import OverflowCounts, join_logits, labelled_positions, window_bounds

PROPERTY = settings(max_examples=25)
TAG, CLASSIFY = "token-classification", "sequence-classification"


def windowed(tokenizer=CHAR, length=12, overlap=None, **options):
    return settings_for(tokenizer, length=length, overflow="window", overlap=overlap, **options)


def cut(units, size, overlap):
    """The windows that a tokenizer makes of a document."""
    starts = range(0, max(len(units) - overlap, 1), size - overlap)
    return [np.array(units[start : start + size], dtype=int) for start in starts]


@st.composite
def documents(draw):
    """Documents of words that have a few tokens each, the size of a window, and an overlap."""
    size = draw(st.integers(2, 9))
    overlap = draw(st.integers(0, size - 1))
    lengths = draw(st.lists(st.lists(st.integers(1, 4), max_size=20), min_size=1, max_size=4))
    return [np.repeat(np.arange(len(row)), row) for row in lengths], size, overlap


@PROPERTY
@given(documents())
def test_every_unit_is_told_once_and_in_order_where_it_is_farthest_from_a_cut(case):
    rows, size, overlap = case
    windows = [cut(units, size, overlap) for units in rows]
    document = [index for index, parts in enumerate(windows) for _ in parts]
    told = labelled_positions([part for parts in windows for part in parts], document, overlap)
    for index, (units, parts) in enumerate(zip(rows, windows, strict=True)):
        here = [places for places, of in zip(told, document, strict=True) if of == index]
        assert np.concatenate([part[places] for part, places in zip(parts, here, strict=True)]).tolist() == sorted(
            set(units.tolist())
        )
        reach = window_bounds([len(part) for part in parts], [0] * len(parts), overlap)
        assert all(np.array_equal(units[start:stop], part) for (start, stop), part in zip(reach, parts, strict=True))
        for unit in set(units.tolist()):
            tokens = np.flatnonzero(units == unit)
            margins = [
                min(
                    tokens[0] - start if start else np.inf,
                    stop - 1 - tokens[-1] if stop < len(units) else np.inf,
                )
                if start <= tokens[0] < stop
                else -np.inf
                for start, stop in reach
            ]
            owner = next(k for k, (part, places) in enumerate(zip(parts, here, strict=True)) if unit in part[places])
            assert owner == margins.index(max(margins))


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=20)
@given(
    rows=st.lists(st.lists(st.text("ab c\u200b\U0001f600", max_size=9), max_size=9), min_size=1, max_size=4),
    length=st.integers(6, 16),
    overlap=st.integers(0, 3),
)
def test_every_word_is_told_once_at_its_first_piece(kind, rows, length, overlap):
    tokenizer = TOKENIZERS[kind]
    options = windowed(tokenizer, length, overlap)
    features = tokenize_words(options, rows)
    whole = tokenize_words(settings_for(tokenizer, length=10**6), rows)
    told = list(labelled_words(features, options))
    expected = list(labelled_words(whole, dataclasses.replace(options, overflow="truncate")))
    assert max(map(len, features["input_ids"])) <= length
    for index, (words, (places, _)) in enumerate(zip(rows, expected, strict=True)):
        parts = [
            (ids, *pair)
            for ids, of, pair in zip(features["input_ids"], features["document"], told, strict=True)
            if of == index
        ]
        assert [word for _, _, found in parts for word in found] == list(range(len(words)))
        pieces = [ids[place] for ids, positions, _ in parts for place in positions]
        assert pieces == [whole["input_ids"][index][place] for place in places]


def test_a_label_is_repeated_and_a_tag_is_not():
    rows = [{"text": "abc" * 5, "label": "y"}, {"text": "a", "label": "x"}]
    split = encode_split(
        TASKS[CLASSIFY], datasets.Dataset.from_list(rows), windowed(length=8, labels=["x", "y"], overlap=2), "train"
    )
    assert split.document.tolist() == [0, 0, 0, 0, 1] and split.features["labels"][:] == [1, 1, 1, 1, 0]
    rows = [{"tokens": list("abc" * 5), "tags": ["X"] * 15}, {"tokens": ["a"], "tags": ["X"]}]
    split = encode_split(
        TASKS[TAG], datasets.Dataset.from_list(rows), windowed(length=8, labels=["X"], overlap=2), "train"
    )
    assert split.document.tolist() == [0, 0, 0, 0, 1]
    assert [sum(label != IGNORE for label in row) for row in split.features["labels"]] == [5, 4, 4, 2, 1]


def test_the_answer_to_a_document_is_that_of_its_windows():
    """Logits are averaged; tags stand one after the other, whatever the padding."""
    rows = datasets.Dataset.from_list([{"text": "abc" * 5, "label": "y"}, {"text": "a", "label": "x"}])
    options = windowed(length=8, labels=["x", "y"], overlap=2)
    logits = np.array([[4.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [9.0, 0.0]])
    task = TASKS[CLASSIFY]
    split = encode_split(task, rows, options, "test")
    scorer = SplitScorer(task, split, options)
    scorer(predicted(logits, np.array(split.features["labels"][:])))
    answers = scorer.answers
    scores = [1 / (1 + np.exp(-1 / 4)), 1 / (1 + np.exp(-9.0))]
    assert [answer["scores"]["x"] for answer in answers] == pytest.approx(scores)

    words = [list("abc" * 5), ["a"], []]
    tags = [["XYZ"[index % 3] for index in range(len(row))] for row in words]
    rows = datasets.Dataset.from_dict({"tokens": words, "tags": tags})
    options, task = windowed(length=8, labels=["O", "X", "Y", "Z"], overlap=2), TASKS[TAG]
    split = encode_split(task, rows, options, "test")
    labels = np.stack([np.pad(row, (0, 12 - len(row)), constant_values=IGNORE) for row in split.features["labels"]])
    scorer = SplitScorer(task, split, options)
    scorer(predicted(np.abs(labels) % 4, labels))
    assert [answer["prediction"] for answer in scorer.answers] == tags


def test_a_pair_is_read_in_all_pairs_of_windows():
    row = {"text": "abcabcabc", "text_pair": "c", "label": "x"}
    encoded = encode(CLASSIFY, [row], windowed(length=8, labels=["x"], overlap=1))
    assert CHAR.batch_decode(list(encoded["input_ids"])) == [
        f"[CLS]{each}[SEP]c[SEP]" for each in ("abca", "abca", "abc")
    ]


@pytest.mark.parametrize(
    "overlap, pair, message", [(6, None, "less than the 6 tokens"), (2, "abc", "less than the 2 tokens .* each text")]
)
def test_a_window_has_something_of_its_own(overlap, pair, message):
    row = {"text": "abc", "label": "x", **({} if pair is None else {"text_pair": pair})}
    with pytest.raises(InputError, match=f"overlap: {overlap} must be {message}"):
        encode(CLASSIFY, [row], windowed(length=8, labels=["x"], overlap=overlap))


@pytest.mark.parametrize("tokenizer", [ByT5Tokenizer(), copy.deepcopy(CHAR)], ids=["slow", "left"])
def test_windows_are_read_from_the_left_by_a_fast_tokenizer(tokenizer):
    if tokenizer.is_fast:
        tokenizer.truncation_side = "left"
    with pytest.raises(InputError, match="overflow: window needs a fast tokenizer with truncation_side=right"):
        encode(CLASSIFY, [{"text": "abc", "label": "x"}], windowed(tokenizer, 8, 1, labels=["x"]))


# --- What is said of it ---


@PROPERTY
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=5), length=st.integers(4, 20), pair=st.booleans())
def test_what_is_cut_off_is_counted(sizes, length, pair):
    special = CHAR.num_special_tokens_to_add(pair)
    texts = ["a" * size for size in sizes]
    features = tokenize(settings_for(length=length), texts, ["b"] * len(sizes) if pair else None)
    over = [max(size + pair + special - length, 0) for size in sizes]
    assert features["cut"] == over and features["document"] == list(range(len(sizes)))


def test_windows_are_counted_and_what_fits_needs_no_word(caplog):
    rows = [{"tokens": ["ab"] * 9, "tags": ["X"] * 9}, {"tokens": ["a"], "tags": ["X"]}]
    encode(TAG, rows, windowed(length=8, labels=["X"], overlap=2))
    assert caplog.messages == ["train: 1 of 2 rows are too long for one sequence; 4 windows were made of them"]
    encode("seq2seq-lm", [{"source": "abc", "target": "abc"}], settings_for(max_source_length=4, max_target_length=3))
    assert caplog.messages[1:] == ["train: 1 of 1 rows are too long for one sequence; 2 tokens were cut off"]
    encode("seq2seq-lm", [{"source": "abc", "target": "abc"}], settings_for(max_source_length=5, max_target_length=4))
    assert len(caplog.messages) == 2


def test_rows_windows_and_tokens_are_counted_over_batches():
    counts = OverflowCounts()
    counts.add([0, 0, 1, 2], [0, 0, 3, 0], [False, False, True, False])
    counts.add([5, 6, 6, 6], [2, 0, 0, 0], [False] * 4)
    assert counts == OverflowCounts(rows=5, long=4, windows=5, cut=5, is_lower_bound=True)


# --- Equal to the document as a whole ---


@pytest.mark.parametrize("window, all_agree", [(6, True), (24, False)])
def test_words_whose_receptive_field_lies_in_their_window_agree_exactly(window, all_agree):
    """Two layers that slide: a token sees twice the window. 5000 words, each a token, in windows of 128."""
    words = np.random.default_rng(0).choice(list("abc"), 5000).tolist()
    model = tiny_model(
        BlendEncoderForTokenClassification, layer_types=["sliding_attention"] * 2, sliding_window=window, num_labels=7
    )
    options = windowed(length=128, overlap=64, labels=[str(index) for index in range(7)])
    features = tokenize_words(options, [words])
    told, logits, margins = list(labelled_words(features, options)), [], []
    spans = window_bounds([len(ids) - 2 for ids in features["input_ids"]], features["document"], options.stride)
    with torch.no_grad():
        whole = model(torch.tensor([CHAR(words, is_split_into_words=True)["input_ids"]])).logits[0, 1:-1]
        for ids, (positions, found), (start, stop) in zip(features["input_ids"], told, spans, strict=True):
            logits.append(model(torch.tensor([ids])).logits[0, positions])
            before = found - start if start else np.full(len(found), 5000)
            margins.append(np.minimum(before, stop - 1 - found if stop < 5000 else 5000))
    assert np.concatenate([found for _, found in told]).tolist() == list(range(5000))
    agree = (torch.cat(logits) - whole).abs().amax(-1) < 1e-9
    inside = torch.from_numpy(np.concatenate(margins) >= 2 * window)
    assert agree[inside].all() and agree.all() == all_agree and inside.all() == all_agree
    assert torch.equal(torch.cat(logits)[inside].argmax(-1), whole[inside].argmax(-1))


def test_the_mean_of_one_is_itself():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    joined = join_logits(predicted(logits, np.arange(5)), np.arange(5))
    assert np.array_equal(joined.predictions, logits) and joined.label_ids.tolist() == list(range(5))
