"""What becomes of a row on its way to the model, and of the model's output on its way back."""

import itertools

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import collator_of, read_file
from tokenizers import processors
from transformers import ByT5Tokenizer, EvalPrediction

from seqblend import FAMILIES
from seqblend.data.errors import InputError
from seqblend.data.sources import Origin
from seqblend.hub_card.record import select_example
from seqblend.tasks.corruption import IGNORE
from seqblend.tasks.encoding import Settings
from seqblend.tasks.registry import TASKS
from seqblend.tasks.seq2seq import decode
from seqblend.tasks.splits import EncodedSplit, SplitScorer, encode_split
from seqblend.tokenization.kinds import SPACE, TOKENIZER_TYPES
from seqblend.tokenization.loading import load_tokenizer
from seqblend.tokenization.training import train_tokenizer
from seqblend.training.models import ARCHITECTURES

TEXTS = ["ab ba cab", "a b c", "", "abc"]
# With a zero-width space, an empty word and a space: words of which some tokenizers make nothing.
WORDS = ["ab", "", "c", "\u200b", " ", "bca"]
PROPERTY = settings(max_examples=10)
TOKENIZERS = {kind: train_tokenizer(["abcabc cab bac", *TEXTS], kind, 300) for kind in TOKENIZER_TYPES}
CHAR = TOKENIZERS["char"]


def settings_for(tokenizer=CHAR, **options):
    lengths = dict.fromkeys(("max_length", "max_source_length", "max_target_length"), options.pop("length", 64))
    defaults = {"labels": [], "problem_type": None, "token_types": False, "seed": 0}
    return Settings(tokenizer=tokenizer, **{**lengths, **defaults, **options})


def encode(task, rows, options, split="train"):
    return encode_split(TASKS[task], datasets.Dataset.from_list(rows), options, split).features


def predicted(predictions, label_ids=None):
    return EvalPrediction(predictions=np.array(predictions), label_ids=label_ids)


@pytest.mark.parametrize("name", TASKS)
def test_the_default_architecture_has_a_head(name):
    assert TASKS[name].auto_class in FAMILIES[ARCHITECTURES[TASKS[name].architecture]]


# --- Sequence classification ---


def test_a_text_is_cut_to_its_length_and_its_label_numbered():
    rows = [{"text": "abcabc", "label": "y"}, {"text": "", "label": "x"}]
    encoded = encode("sequence-classification", rows, settings_for(labels=["x", "y"], length=4))
    assert CHAR.batch_decode(list(encoded["input_ids"])) == ["[CLS]ab[SEP]", "[CLS][SEP]"]
    assert encoded["labels"] == [1, 0]
    assert sorted(encoded.column_names) == ["attention_mask", "input_ids", "labels"]


@pytest.mark.parametrize("token_types", [False, True])
def test_a_pair_is_one_sequence_of_two_kinds(token_types):
    rows, options = (
        [{"text": "ab", "text_pair": "c", "label": "x"}],
        settings_for(labels=["x"], token_types=token_types),
    )
    encoded = encode("sequence-classification", rows, options)[0]
    asked = TASKS["sequence-classification"].read_rows(rows, options)
    assert all(asked[name] == [values] for name, values in encoded.items() if name != "labels")
    assert CHAR.decode(encoded["input_ids"]) == "[CLS]ab[SEP]c[SEP]"
    assert encoded.get("token_type_ids") == ([0, 0, 0, 0, 1, 1] if token_types else None)


@pytest.mark.parametrize(
    "problem_type, label, encoded, logits, answer",
    [
        ("regression", 0.5, 0.5, [0.25], {"prediction": 0.25}),
        ("regression", [0.5, 2.0], [0.5, 2.0], [0.25, 3.0], {"prediction": [0.25, 3.0]}),
        # It is a number as any other.
        ("regression", -100.0, -100.0, [0.25], {"prediction": 0.25}),
        (
            "multi_label_classification",
            ["y", "x"],
            [1.0, 1.0],
            [-np.log(3), np.log(3)],
            {"prediction": ["y"], "scores": {"y": 0.75, "x": 0.25}},
        ),
        (
            "multi_label_classification",
            [],
            [0.0, 0.0],
            [0.0, -np.log(3)],
            {"prediction": [], "scores": {"x": 0.5, "y": 0.25}},
        ),
        (
            "single_label_classification",
            "x",
            0,
            [-800.0, -800.0 + np.log(3)],
            {"prediction": "y", "scores": {"y": 0.75, "x": 0.25}},
        ),
    ],
)
def test_labels_and_answers(problem_type, label, encoded, logits, answer):
    options = settings_for(labels=["x", "y"], problem_type=problem_type)
    rows = [{"text": "a", "label": label}]
    assert encode("sequence-classification", rows, options)["labels"] == [encoded]
    given = TASKS["sequence-classification"].answer(predicted([logits]), rows, options)[0]
    assert given["prediction"] == answer["prediction"]
    # The most probable first.
    assert list(given.get("scores", {})) == list(answer.get("scores", {}))
    assert given.get("scores", {}) == pytest.approx(answer.get("scores", {}))


def test_scores_are_the_five_most_probable():
    options = settings_for(labels=list("abcdefg"), problem_type="single_label_classification")
    answer = TASKS["sequence-classification"].answer(predicted([[0, 6, 1, 5, 2, 4, 3]]), [], options)[0]
    assert list(answer["scores"]) == list("bdfge") and answer["prediction"] == "b"
    assert 0.99 < sum(answer["scores"].values()) < 1


# --- Token classification ---


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_word_has_one_label_at_its_first_piece(kind):
    tokenizer, tags = TOKENIZERS[kind], [str(index) for index in range(len(WORDS))]
    options = settings_for(tokenizer, labels=tags)
    encoded = encode("token-classification", [{"tokens": WORDS, "tags": tags}], options)[0]
    pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert [label for label in encoded["labels"] if label != IGNORE] == list(range(len(WORDS)))
    for word, start in zip(WORDS, np.flatnonzero(np.array(encoded["labels"]) != IGNORE), strict=True):
        first = pieces[start].lstrip(f"Ġ{SPACE}")
        assert first in ("[UNK]", "") or word.startswith(first) or not word.isascii(), (word, pieces)


def test_a_tagger_refuses_a_slow_tokenizer():
    """It does not say which tokens belong to a word: that was a ValueError of transformers, without the option."""
    options, row = settings_for(ByT5Tokenizer(), labels=["O"]), {"tokens": ["a"], "tags": ["O"]}
    with pytest.raises(InputError, match=r"tokenizer_name_or_path: .* slow"):
        encode("token-classification", [row], options)
    with pytest.raises(InputError, match=r"tokenizer_name_or_path: .* slow"):
        TASKS["token-classification"].read_rows([row], options)


def test_other_pieces_and_special_tokens_have_no_label():
    options = settings_for(labels=["O", "X"])
    encoded = encode("token-classification", [{"tokens": ["ab", "", "c"], "tags": ["X", "O", "X"]}], options)[0]
    assert CHAR.convert_ids_to_tokens(encoded["input_ids"]) == ["[CLS]", "a", "b", "[UNK]", "c", "[SEP]"]
    assert encoded["labels"] == [IGNORE, 1, IGNORE, 0, 1, IGNORE]


@pytest.mark.parametrize("kind", TOKENIZERS)
@PROPERTY
@given(rows=st.lists(st.lists(st.text(max_size=4), max_size=5), max_size=4), length=st.integers(3, 16))
def test_every_word_gets_one_tag(kind, rows, length):
    """The right one where the model is right and has read the word, else `O`."""
    rows = [{"tokens": words, "tags": ["X"] * len(words)} for words in [["a"], *rows]]
    options = settings_for(TOKENIZERS[kind], labels=["Q", "O", "X"], length=length)
    encoded = encode("token-classification", rows, options)
    batch = collator_of("token-classification", options.tokenizer)(encoded.to_list())
    # As the evaluation loop pads.
    labels = np.pad(batch["labels"].numpy(), ((0, 0), (0, 3)), constant_values=IGNORE)
    answers = TASKS["token-classification"].answer(
        predicted(np.where(labels == IGNORE, 0, labels), labels), {"tokens": [row["tokens"] for row in rows]}, options
    )
    for row, answer, ids in zip(rows, answers, encoded["labels"], strict=True):
        read = sum(label != IGNORE for label in ids)
        assert answer["prediction"] == ["X"] * read + ["O"] * (len(row["tokens"]) - read)
    whole = [len(ids) < length for ids in encoded["input_ids"]]
    assert all("O" not in answer["prediction"] for answer in itertools.compress(answers, whole))


@pytest.mark.parametrize(
    ("labels", "tag", "default"), [(["X", "Y"], "Y", "X"), (["B", "M", "E", "S"], "S", "S")], ids=["first", "alone"]
)
def test_without_o_words_beyond_the_length_get_the_first_label_that_may_stand_alone(labels, tag, default):
    options = settings_for(labels=labels, length=3)
    rows = [{"tokens": ["a", "b"], "tags": [tag, tag]}]
    labels = np.array(encode("token-classification", rows, options)["labels"])
    columns = {"tokens": [rows[0]["tokens"]], "tags": [rows[0]["tags"]]}
    answers = TASKS["token-classification"].answer(predicted(np.abs(labels), labels), columns, options)
    assert answers == [{"prediction": [tag, default]}]
    accuracy = TASKS["token-classification"].score(answers, columns, options)["accuracy"]
    assert accuracy == (1 + (tag == default)) / 2


@pytest.mark.parametrize("count", [2, 100])
def test_tags_belong_to_their_words_where_the_beginning_is_cut_off(count, monkeypatch):
    """The tags of the last words were given to the first ones."""
    options = settings_for(labels=["O", "X", "Y"], length=4)
    monkeypatch.setattr(options.tokenizer, "truncation_side", "left")
    rows = [{"tokens": ["a"] * count + ["c", "a"], "tags": ["X"] * count + ["X", "Y"]}]
    labels = np.array(encode("token-classification", rows, options)["labels"])
    columns = {name: [rows[0][name]] for name in rows[0]}
    answers = TASKS["token-classification"].answer(predicted(np.abs(labels), labels), columns, options)
    assert answers == [{"prediction": ["O"] * count + ["X", "Y"]}]


def test_training_without_a_word_within_the_length_is_refused():
    rows, options = [{"tokens": ["a", "b"], "tags": ["O", "O"]}], settings_for(labels=["O"], length=2)
    with pytest.raises(InputError, match="max_length: 2 leaves nothing of the training split"):
        encode("token-classification", rows, options)
    assert encode("token-classification", rows, options, "test")["labels"] == [[IGNORE, IGNORE]]


def test_a_split_without_words_is_refused():
    with pytest.raises(InputError, match="validation: no row has a word"):
        rows = datasets.Dataset.from_dict({"tokens": [[], []], "tags": [[], []]})
        encode_split(TASKS["token-classification"], rows, settings_for(labels=["O"]), "validation")


# --- Sequence to sequence ---


@pytest.mark.parametrize("target", ["abc", ["abc", "c"]])
def test_a_target_is_the_first_reference_and_the_end_token(target):
    encoded = encode("seq2seq-lm", [{"source": "ba", "target": target}], settings_for())[0]
    assert CHAR.decode(encoded["input_ids"]) == "[CLS]ba[SEP]"
    assert CHAR.decode(encoded["labels"]) == "abc[SEP]"


def test_source_and_target_are_cut_to_their_lengths():
    options = settings_for(max_source_length=3, max_target_length=3)
    encoded = encode("seq2seq-lm", [{"source": "abc", "target": "abc"}, {"source": "", "target": ""}], options)
    assert CHAR.batch_decode(list(encoded["input_ids"])) == ["[CLS]a[SEP]", "[CLS][SEP]"]
    assert CHAR.batch_decode(list(encoded["labels"])) == ["ab[SEP]", "[SEP]"]


def test_generated_tokens_become_text_and_any_reference_may_match():
    options, task = settings_for(), TASKS["seq2seq-lm"]
    lines = [[CHAR.bos_token_id, *CHAR.encode("abc", add_special_tokens=False), CHAR.eos_token_id], [IGNORE] * 5]
    rows = {"target": [["c", "abc"], ["a"]]}
    answers = task.answer(predicted(lines), rows, options)
    assert answers == [{"prediction": "abc"}, {"prediction": ""}]
    assert task.score(answers, rows, options)["exact_match"] == 0.5


def test_why_bleu_is_zero_is_said_once_a_split(caplog):
    """Not at every evaluation."""
    rows = datasets.DatasetDict(
        {split: datasets.Dataset.from_list([{"source": "a", "target": "abc"}]) for split in ("validation", "test")}
    )
    splits = [EncodedSplit(name, rows[name], rows[name]) for name in rows]
    scorers = [SplitScorer(TASKS["seq2seq-lm"], split, settings_for()) for split in splits]
    for _ in range(2):
        figures = [score(predicted([CHAR.encode("abc")])) for score in scorers]
    assert [each["bleu"] for each in figures] == [0, 0]
    assert caplog.messages == [f"{split}: BLEU is 0: no reference has 4 tokens" for split in rows]


# --- Language models ---


@PROPERTY
@given(texts=st.lists(st.text("abc ", max_size=6), min_size=2, max_size=6), length=st.integers(2, 7))
def test_a_stream_loses_no_token_and_closes_each_text(texts, length):
    blocks = encode("causal-lm", [{"text": text} for text in texts], settings_for(length=length))
    stream = list(itertools.chain.from_iterable(blocks["input_ids"]))
    assert CHAR.decode(stream) == "".join(f"{text}[SEP]" for text in texts)
    assert blocks["labels"] == blocks["input_ids"]
    assert all(len(block) == length for block in blocks["input_ids"][:-1])
    assert 1 <= len(blocks["input_ids"][-1]) <= length


def test_a_stream_of_one_token_is_refused():
    with pytest.raises(InputError, match="validation: the texts have 1 token"):
        encode("causal-lm", [{"text": ""}], settings_for(), "validation")


LONG = [{"text": "abc" * 20}, {"text": "cab" * 11}, {"text": ""}]


def assert_masked(inputs, labels, text):
    """What is to be told are the tokens of the text, and nothing else has changed."""
    original = torch.tensor(CHAR(text)["input_ids"])
    inputs, labels = (torch.as_tensor(each)[: len(original)] for each in (inputs, labels))
    told = labels != IGNORE
    assert torch.equal(torch.where(told, labels, inputs), original)
    special = torch.tensor([0, len(original) - 1])
    assert not told[special].any()
    return told.sum().item()


def test_rows_for_evaluation_are_masked_for_good():
    runs = [encode("masked-lm", LONG, settings_for(seed=seed), "test") for seed in (0, 0, 1)]
    assert runs[0].to_list() == runs[1].to_list() != runs[2].to_list()
    pairs = zip(runs[0], LONG, strict=True)
    told = [assert_masked(row["input_ids"], row["labels"], text["text"]) for row, text in pairs]
    assert told[0] and told[1] and not told[2]
    batch = collator_of("masked-lm", CHAR)(runs[0].to_list())
    assert batch["labels"][1][:35].tolist() == runs[0]["labels"][1]
    assert (batch["labels"][2][2:] == IGNORE).all()


def test_in_evaluation_every_row_with_a_token_counts():
    """A row of three is left alone by chance in three of five cases."""
    rows = [{"text": text} for text in ("a", "abc", "", "cb")] * 20
    encoded = encode("masked-lm", rows, settings_for(), "test")
    for row, text in zip(encoded, rows, strict=True):
        told = assert_masked(row["input_ids"], row["labels"], text["text"])
        assert (told > 0) == (text["text"] != "")
    assert encoded.to_list() == encode("masked-lm", rows, settings_for(), "test").to_list()


def test_training_masks_anew_in_each_epoch_and_follow_from_batch_and_epoch():
    encoded = encode("masked-lm", LONG, settings_for(), "train").to_list()
    collator = collator_of("masked-lm", CHAR)
    batches = []
    for epoch in (0, 0, 1):
        collator.epoch = epoch
        torch.rand(3)
        batches.append(collator([dict(row) for row in encoded])["labels"])
    assert torch.equal(batches[0], batches[1]) and not torch.equal(batches[0], batches[2])
    other_order = collator(encoded[::-1])
    assert not torch.equal(other_order["labels"].flip(0), batches[2])


def test_fifteen_percent_are_masked_and_of_them_a_tenth_stay():
    batch = collator_of("masked-lm", CHAR)([{"input_ids": CHAR("abc" * 1000)["input_ids"]}] * 5)
    told = batch["labels"] != IGNORE
    assert told.float().mean().item() == pytest.approx(0.15, abs=0.015)
    masked = batch["input_ids"][told]
    assert (masked == CHAR.mask_token_id).float().mean().item() == pytest.approx(0.8, abs=0.04)
    assert (masked == batch["labels"][told]).float().mean().item() == pytest.approx(0.11, abs=0.03)


# --- Batches ---


@pytest.mark.parametrize(
    "task, rows",
    [
        ("sequence-classification", [{"text": "abc", "label": "x"}, {"text": "a", "label": "y"}]),
        ("token-classification", [{"tokens": ["ab", "c"], "tags": ["x", "y"]}, {"tokens": ["a"], "tags": ["y"]}]),
        ("seq2seq-lm", [{"source": "abc", "target": "a"}, {"source": "a", "target": "abcabc"}]),
        ("causal-lm", [{"text": "abc"}, {"text": "abca"}]),
        ("masked-lm", [{"text": "abc"}, {"text": "a"}]),
    ],
)
def test_batches_are_padded(task, rows):
    encoded = encode(task, rows, settings_for(labels=["x", "y"], token_types=True, length=5))
    batch = collator_of(task, CHAR)(encoded.to_list())
    width = max(map(len, encoded["input_ids"]))
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(encoded), width)
    for row, mask in zip(encoded["input_ids"], batch["attention_mask"], strict=True):
        assert mask.tolist() == [1] * len(row) + [0] * (width - len(row))
    assert (batch["input_ids"][batch["attention_mask"] == 0] == CHAR.pad_token_id).all()
    if task == "sequence-classification":
        assert batch["labels"].tolist() == encoded["labels"]
    elif task != "masked-lm":
        longest = max(map(len, encoded["labels"]))
        assert batch["labels"].tolist() == [row + [IGNORE] * (longest - len(row)) for row in encoded["labels"]]
    if task in ("sequence-classification", "token-classification", "masked-lm"):
        assert batch["token_type_ids"].shape == batch["input_ids"].shape


@pytest.mark.parametrize(
    "task, row",
    [
        ("sequence-classification", {"text": "", "label": "x"}),
        ("token-classification", {"tokens": [], "tags": []}),
        ("seq2seq-lm", {"source": "", "target": ""}),
        ("masked-lm", {"text": ""}),
        ("denoising", {"text": ""}),
    ],
)
def test_a_row_is_never_empty(task, row):
    """Some tokenizers add no special tokens."""
    bare = train_tokenizer(TEXTS, "char", 300)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    more = {"sequence-classification": {"label": "x"}, "token-classification": {"tokens": ["a"], "tags": ["x"]}}
    encoded = encode(task, [row, {**row, **more.get(task, {})}], settings_for(bare, labels=["x"], token_types=True))
    assert encoded["input_ids"][0] == [bare.eos_token_id] and encoded["attention_mask"][0] == [1]
    if task == "token-classification":
        assert encoded["labels"] == [[IGNORE], [0]]
    batch = collator_of(task, bare)(encoded.to_list())
    assert batch["input_ids"].shape == (2, 1) and batch["token_type_ids"].tolist() == [[0], [0]]


def test_several_processes_encode_as_one_does():
    rows = datasets.Dataset.from_dict({"text": [text * n for n in range(1, 4) for text in TEXTS]})
    task, options = TASKS["masked-lm"], settings_for(length=8)
    expected = encode_split(task, rows, options, "train").features.to_list()
    assert encode_split(task, rows, options, "train", workers=2).features.to_list() == expected


@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm"])
def test_what_was_encoded_is_found_again(task, tmp_path, monkeypatch):
    """After other calls of the tokenizer too; not with other settings, nor with another tokenizer."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f'"{text}",x\n' for text in TEXTS))
    rows, calls, encode = read_file(path, "sequence-classification"), [], type(TASKS[task]).encode

    def counted(self, batch, settings):
        calls.append(batch)
        return encode(self, batch, settings)

    monkeypatch.setattr(type(TASKS[task]), "encode", counted)

    def count(tokenizer=CHAR, **options):
        calls.clear()
        encode_split(TASKS[task], rows, settings_for(tokenizer, labels=["x"], **options), "test")
        return len(calls)

    assert [count(), count()] == [1, 0]
    CHAR("abc", truncation=True, max_length=2, padding="max_length")
    assert [count(), count(length=8), count(TOKENIZERS["wordpiece"]), count(length=8)] == [0, 1, 1, 0]


@pytest.mark.parametrize("labels, dtype", [([0.5, 1.0], torch.float32), ([[0.5, 1.0]] * 2, torch.float32)])
def test_numbers_stay_numbers_in_a_batch(labels, dtype):
    rows = [{"text": "a", "label": label} for label in labels]
    encoded = encode("sequence-classification", rows, settings_for(labels=["x"], problem_type="regression"))
    batch = collator_of("sequence-classification", CHAR)(encoded.to_list())
    assert batch["labels"].dtype == dtype and batch["labels"].tolist() == labels


TARGETS = ["2020-01-01", "x [SEP] b", "[MASK]", "x  y\n", "[CLS] [MASK] y", "x  [MASK][MASK] <extra_id_0>"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_targets_come_back_whatever_they_spell(kind, caplog):
    """wordpiece put spaces around marks, and special tokens were left out: no prediction could be right."""
    tokenizer = train_tokenizer(["2020-01-01 x  y\n[SEP] [MASK] [CLS] ab of two <extra_id_0>"], kind, 300)
    rows = [{"source": "a", "target": target} for target in TARGETS]
    encoded = encode("seq2seq-lm", rows, settings_for(tokenizer))
    assert decode(tokenizer, list(encoded["labels"])) == TARGETS
    assert not any(special in row[:-1] for row in encoded["labels"] for special in range(5))
    assert "the tokenizer changes" not in caplog.text


def test_targets_that_a_tokenizer_changes_are_told_in_one_line(caplog, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "-", "b"]))
    rows = [{"source": "a", "target": target} for target in ("a b", "a-b", "A", "a [SEP] b")]
    encode(
        "seq2seq-lm",
        rows,
        settings_for(load_tokenizer(tmp_path), origins={"train": Origin(["file.csv"], [len(rows)])}),
    )
    assert caplog.messages == ["file.csv: the tokenizer changes 3 of 4 targets: 'a-b' becomes 'a - b'"]


def test_the_example_for_the_card_has_words_to_go_on_from():
    """Where a test split is predicted the card takes it from there; a set without long texts gives what it has."""

    def splits(*texts):
        return datasets.DatasetDict({"validation": datasets.Dataset.from_dict({"text": list(texts)})})

    task = TASKS["causal-lm"]
    assert select_example(splits("", "?", "one two three four five six"), task)["example"].startswith("one two")
    assert select_example(splits("", "?"), task) == {"example": "?"} and select_example(splits(""), task) == {}
    rows = datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["a"], "label": ["x"]})})
    assert select_example(rows, TASKS["sequence-classification"]) == {}
    sentences = datasets.Dataset.from_dict({"tokens": [["a"], list("abcdef")], "tags": [["x"], ["x"] * 6]})
    assert select_example(datasets.DatasetDict({"train": sentences}), TASKS["token-classification"]) == {
        "example": list("abcdef")
    }
