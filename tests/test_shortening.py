"""What cannot be in a sequence is cut off before it is tokenized, and what is in the sequence is the same."""

import random

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tasks import TOKENIZERS, encode, settings_for
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from seqblend.tasks import encoding
from seqblend.tasks.encoding import tokenize
from seqblend.tasks.registry import TASKS
from seqblend.tasks.token_classification import tokenize_words
from seqblend.tokenization import shortening
from seqblend.tokenization.shortening import CHARACTERS_PER_TOKEN, shortest_part

PROPERTY = settings(max_examples=12)
# Words side by side, words that fall apart, tokens that take the space before them, and white space alone.
PIECES = ["abc", "cab ", " ", "  \n", "\t\t\t\t", "[MASK]", " [MASK] ", "[SEP]", "a1234567", "cab,abc. ", "\u0301"]
# What some tokenizers know as one token, of eight words.
PIECES.append(MANY := "b c a c b a c b ")
text_strategy = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def like(pre_tokenizer, normalizer=None, trained=None):
    """A tokenizer as other models have them, with a token of many words.

    Args:
        pre_tokenizer: what divides texts into words.
        normalizer: what comes before.
        trained: what divided the texts of its training.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = trained or pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    special = ["[UNK]", "[PAD]", "[SEP]"]
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["abc cab abc, cab. 1234567 bab"] * 3, trainer)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True), MANY.strip()])
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


# Digits in threes, from the left and from the right: where these begin is decided far off.
THREES, FROM_RIGHT = Regex(r"\d{1,3}|\D+"), Regex(r"\d{1,3}(?=(?:\d{3})*(?:\D|$))|\D+")
OTHERS = {
    "gpt2": like(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "bert": like(pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()),
    "t5": like(pre_tokenizers.Metaspace(), normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])),
    "llama": like(pre_tokenizers.Metaspace(split=False), trained=pre_tokenizers.Metaspace()),
    "many words in a token": like(pre_tokenizers.Metaspace(split=False)),
    "threes": like(pre_tokenizers.Split(THREES, "isolated")),
    "threes from the right": like(pre_tokenizers.Split(FROM_RIGHT, "isolated")),
}
EVERY = {**TOKENIZERS, **OTHERS}
every_tokenizer = pytest.mark.parametrize("kind", EVERY)


def whole(call, monkeypatch):
    """What comes of a call that shortens nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(shortening, "is_long", lambda *args: False)
        return call()


@pytest.mark.parametrize("side", ["right", "left"])
@every_tokenizer
def test_the_same_tokens_are_kept(kind, side, monkeypatch):
    tokenizer = EVERY[kind]
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    generator = random.Random(0)
    texts = ["".join(generator.choices(PIECES, k=generator.randrange(400))) for _ in range(30)]
    texts += ["1234567" * 90, "12 " * 300, " " * 900, "abc" * 300, "1" * 301 + " " + "1" * 300]
    texts += ["c " * odd + MANY * 40 for odd in range(30)]
    options = settings_for(tokenizer, length=5)

    def call():
        return tokenize(options, texts)

    found, expected = call(), whole(call, monkeypatch)
    assert found["input_ids"] == expected["input_ids"]
    assert any(found["shortened"])
    for count, least, more in zip(expected["cut"], found["cut"], found["shortened"], strict=True):
        assert 0 < least <= count if more else least == count


@every_tokenizer
@PROPERTY
@given(text=text_strategy, times=st.integers(1, 30), pair=text_strategy, length=st.integers(6, 9))
def test_the_same_tokens_of_a_pair_are_kept(kind, text, times, pair, length):
    """Where one is far longer than the other: the odd token is that of the longer one."""
    options = settings_for(EVERY[kind], length=length)
    for texts in ([text * times], [pair]), ([pair], [text * times]):
        with pytest.MonkeyPatch.context() as patch:
            expected = whole(lambda texts=texts: tokenize(options, *texts)["input_ids"], patch)
        assert tokenize(options, *texts)["input_ids"] == expected


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_same_words_are_kept(kind, monkeypatch):
    options = settings_for(TOKENIZERS[kind], length=6)
    sentences = [["ab", "", "\u200b", "c"] * 50, ["ab"] * 9, []]
    found = tokenize_words(options, sentences)
    assert found["shortened"] == [True, False, False] and found["cut"][0] > 0
    monkeypatch.setattr("seqblend.tasks.token_classification.CHARACTERS_PER_TOKEN", 10**9)
    expected = tokenize_words(options, sentences)
    assert found["input_ids"] == expected["input_ids"]
    assert [each.word_ids for each in found.encodings] == [each.word_ids for each in expected.encodings]


@pytest.mark.parametrize("task", ["sequence-classification", "seq2seq-lm", "masked-lm", "denoising"])
def test_a_long_text_is_not_tokenized_whole(task, monkeypatch, caplog):
    """20 MB took gigabytes. How many tokens were cut off is then known in part, and said so."""
    read = []

    class Watched(PreTrainedTokenizerFast):
        def _encode_plus(self, text, *args, **kwargs):
            read.extend(map(len, [text] if isinstance(text, str) else text))
            return super()._encode_plus(text, *args, **kwargs)

    tokenizer = Watched(
        tokenizer_object=TOKENIZERS["wordpiece"].backend_tokenizer, **TOKENIZERS["wordpiece"].special_tokens_map
    )
    text = "abc cab " * 20_000
    options = settings_for(tokenizer, labels=["x"], length=9)
    rows = [{"text": text, "label": "x", "source": text, "target": text}]
    encode(task, rows, options, "train")
    assert read and max(read) < 1000
    assert "1 of 1 rows are too long for one sequence; at least " in caplog.text


def test_targets_are_compared_as_far_as_they_are_learnt(caplog):
    rows = datasets.Dataset.from_list([{"target": "abc cab " * 1000 + "\u2603"}, {"target": "\u2603"}])
    TASKS["seq2seq-lm"].check(rows, settings_for(TOKENIZERS["wordpiece"], length=9), "train")
    assert "changes 1 of 2 targets" in caplog.text


def test_ordinary_texts_are_looked_at_once(monkeypatch):
    monkeypatch.setattr(shortening, "word_numbers", None)
    text = "abc " * (2 * CHARACTERS_PER_TOKEN * 9 // 4)
    assert shortest_part(TOKENIZERS["char"], text, 9).text is text
    assert encoding.tokenize(settings_for(length=9), [text])["shortened"] == [False]


@pytest.mark.parametrize("kind, shortened", [("llama", True), ("many words in a token", False)])
def test_a_tokenizer_that_takes_a_text_for_one_word_may_know_where_tokens_begin(kind, shortened):
    """Else nobody can tell how far a cut changes its tokens, and the text stays whole."""
    assert (shortest_part(EVERY[kind], "abc, cab. bab " * 100, 5).unsure > 0) == shortened


@every_tokenizer
def test_a_text_in_pieces_has_the_tokens_of_the_whole(kind, monkeypatch):
    tokenizer, joined, join = EVERY[kind], [], shortening.tokenize_in_pieces

    def watched(*args):
        joined.append(join(*args))
        return joined[-1]

    monkeypatch.setattr(shortening, "PIECE", 400)
    monkeypatch.setattr(shortening, "OVERLAP", 250)
    monkeypatch.setattr(shortening, "tokenize_in_pieces", watched)
    generator = random.Random(0)
    texts = ["".join(generator.choices(PIECES, k=1200)) for _ in range(10)] + ["abc", ""]
    texts += ["1" * 3000, " " * 3000, "12 " * 900, MANY * 90, "abc\n" * 700 + " abc"]
    plain = {"add_special_tokens": False, "verbose": False}
    assert shortening.token_ids_of(tokenizer, texts) == [tokenizer(text, **plain)["input_ids"] for text in texts]
    assert len([ids for ids in joined if ids]) >= 10 or kind in ("llama", "many words in a token")


def test_documents_are_read_in_pieces(monkeypatch):
    """One of 20 MB took gigabytes."""
    sizes, starts_of = [], shortening.word_starts

    def watched(tokenizer, encoding):
        sizes.append(len(encoding["input_ids"]))
        return starts_of(tokenizer, encoding)

    monkeypatch.setattr(shortening, "PIECE", 1000)
    monkeypatch.setattr(shortening, "OVERLAP", 200)
    monkeypatch.setattr(shortening, "word_starts", watched)
    text = "abc cab " * 1000
    encoded = encode("causal-lm", [{"text": text}], settings_for(TOKENIZERS["wordpiece"], length=9))
    assert len(sizes) > 7 and max(sizes) <= 2000
    expected = TOKENIZERS["wordpiece"](text, add_special_tokens=False, verbose=False)["input_ids"]
    assert [token for row in encoded["input_ids"] for token in row][:-1] == expected
