"""Trained tokenizers are the same everywhere and exact where they can be; loaded ones have all special tokens."""

import copy
import hashlib
import json
import os
import unicodedata
from functools import cache
from itertools import chain

import datasets
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from template import TEMPLATE
from transformers import AutoTokenizer

from seqblend.data.errors import InputError
from seqblend.tasks.corruption import Noise, add_sentinels
from seqblend.tasks.registry import TASKS
from seqblend.tokenization.kinds import NORMALIZATIONS, SPECIAL_TOKENS, TOKENIZER_TYPES, is_trained_here
from seqblend.tokenization.loading import load_tokenizer
from seqblend.tokenization.settings import set_token_types, without_special_tokens
from seqblend.tokenization.training import Texts, train_tokenizer

TEXTS = [
    "2031년 3월 6일 목요일", "6 March 2031", "  two  spaces\n\tand a tab ", "naïve café, it's", "漢字 かな",
    "😀 null NA", "가나다라", "wordpieces in wordpiece", "the theme of the thesis", "",
]  # fmt: skip
CHARACTERS = sorted(set("".join(TEXTS)))
NEEDED = {"char": 5 + len(CHARACTERS), "byte-bpe": 5 + 256}


@cache
def tokenizer_of(tokenizer_type, normalization=None):
    return train_tokenizer(TEXTS * 3, tokenizer_type, 300, normalization)


def decode(tokenizer, text):
    return tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


@pytest.mark.parametrize("tokenizer_type", TOKENIZER_TYPES)
def test_special_tokens(tokenizer_type):
    tokenizer = tokenizer_of(tokenizer_type)
    assert (
        tokenizer.convert_ids_to_tokens(range(5)) == SPECIAL_TOKENS == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    )
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 4)
    assert tokenizer.cls_token_id == tokenizer.bos_token_id == 2
    assert tokenizer.sep_token_id == tokenizer.eos_token_id == 3
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    assert len(tokenizer) == len(set(tokenizer.get_vocab().values())) <= 300
    pair = tokenizer("a", "a", return_token_type_ids=True)
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    assert pair["input_ids"] == [2, *alone, 3, *alone, 3]
    assert pair["token_type_ids"] == [0] * (2 + len(alone)) + [1] * (1 + len(alone))
    assert list(tokenizer("a")) == ["input_ids", "token_type_ids", "attention_mask"]
    assert tokenizer("")["input_ids"] == [2, 3]


@pytest.mark.parametrize("tokenizer_type", TOKENIZER_TYPES)
def test_texts_that_are_continued_are_not_closed(tokenizer_type, tmp_path):
    closed = tokenizer_of(tokenizer_type)
    tokenizer = train_tokenizer(TEXTS * 3, tokenizer_type, 300, adds_special_tokens=False)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert each.get_vocab() == closed.get_vocab() and each.special_tokens_map == closed.special_tokens_map
        for text in TEXTS:
            as_continued = text if tokenizer_type == "char" or not text else f" {text}"
            assert each(as_continued)["input_ids"] == closed(text, add_special_tokens=False)["input_ids"]
            assert not {2, 3} & set(each(text, text)["input_ids"])
            assert list(each(text)) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("kind", ["trained", "vocab.txt"])
def test_token_types_are_given_where_the_model_reads_them_and_only_there(kind, tmp_path):
    """Saved and loaded by the library alone, and set again for another model."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "a", "b"]), encoding="utf-8")
    tokenizer = tokenizer_of("char") if kind == "trained" else load_tokenizer(tmp_path)
    for reads in (True, False, True):
        tokenizer = copy.deepcopy(tokenizer)
        set_token_types(tokenizer, reads)
        tokenizer.save_pretrained(tmp_path / str(reads))
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / str(reads))
        assert tokenizer("a", "a").get("token_type_ids") == ([0, 0, 0, 1, 1] if reads else None)


@settings(max_examples=20)
@given(text=st.text(st.sampled_from(CHARACTERS), max_size=20))
@example(text=" a")
@example(text="\n a  ")
@pytest.mark.parametrize("tokenizer_type", TOKENIZER_TYPES)
def test_known_characters_come_back(tokenizer_type, text):
    assert decode(tokenizer_of(tokenizer_type), text) == text


@settings(max_examples=20)
@given(text=st.text(st.sampled_from(CHARACTERS), max_size=20))
@example(text=" the  café\n 목요일 ")
@pytest.mark.parametrize("tokenizer_type", TOKENIZER_TYPES)
def test_offsets_hold_no_space(tokenizer_type, text):
    """`text[start:end]` of a token is without the space before a word, and every letter is in the slice of a token.

    One space at the very start of a text belongs to its first word: where a text begins is not told to what trims.
    """
    text = text.lstrip(" ")
    tokenizer = tokenizer_of(tokenizer_type)
    offsets = tokenizer(text, add_special_tokens=False).encodings[0].offsets
    slices = [text[start:end] for start, end in offsets]
    assert all(part.isspace() or part == part.strip(" ") for part in slices)
    covered = {place for start, end in offsets for place in range(start, end)}
    assert covered >= {place for place, character in enumerate(text) if not character.isspace()}
    assert tokenizer([text], is_split_into_words=True, add_special_tokens=False).encodings[0].offsets == offsets


@cache
def tokenizer_with_added(tokenizer_type):
    """One that has a sentinel of ours too, and tokens that its user added, special and not."""
    tokenizer = train_tokenizer(TEXTS * 3, tokenizer_type, 300)
    add_sentinels(tokenizer, 4, Noise(0.3), normalized=True)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<special>"]}, replace_extra_special_tokens=False)
    tokenizer.add_tokens(["<added>"])
    return tokenizer


PIECES = ["the", "theme", " ", "  ", "\n", "é", "漢", "[CLS]", "[SEP]", "<special>", "<added>"]


@settings(max_examples=20)
@given(pieces=st.lists(st.sampled_from([*PIECES, "the [MASK]", "\n [MASK]", "the <extra_id_0>"]), max_size=8))
@example(pieces=["[MASK]", " ", "the"])
@example(pieces=["the", "<special>", "the", "<added>", " ", "the"])
@pytest.mark.parametrize("tokenizer_type", TOKENIZER_TYPES)
def test_texts_with_added_tokens_come_back(tokenizer_type, pieces):
    tokenizer, text = tokenizer_with_added(tokenizer_type), "".join(pieces)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("tokenizer_type", ["byte-bpe", "wordpiece", "unigram"])
def test_a_written_mask_is_a_masked_word(tokenizer_type, exact, tmp_path):
    """It had a space token beside it, which no masked text of training has."""
    train_tokenizer(["zero one two", "two one zero"] * 50, tokenizer_type, 300, exact=exact).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    words = ["zero", "one", "two"]
    pieces = [tokenizer([word], is_split_into_words=True, add_special_tokens=False)["input_ids"] for word in words]
    for place in range(3):
        written = [*words[:place], "[MASK]", *words[place + 1 :]]
        masked = list(chain(*pieces[:place], [tokenizer.mask_token_id], *pieces[place + 1 :]))
        assert tokenizer(" ".join(written), add_special_tokens=False)["input_ids"] == masked
        assert tokenizer(written, is_split_into_words=True, add_special_tokens=False)["input_ids"] == masked
        assert tokenizer.decode(masked) == " ".join(written)
    assert tokenizer(" ".join(words), add_special_tokens=False)["input_ids"] == list(chain(*pieces))


def test_wordpiece_of_long_words():
    """WordPiece takes a word of more than 100 characters for unknown; a text without spaces would be one."""
    tokenizer = train_tokenizer(["ab"], "wordpiece", 300)
    assert decode(tokenizer, "ab" * 200) == "ab" * 200


@settings(max_examples=20)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example(text="\x00\r\n\u2028")
def test_bytes_are_never_unknown(text):
    assume(not any(token in text for token in SPECIAL_TOKENS))
    assert decode(tokenizer_of("byte-bpe"), text) == text
    assert 1 not in tokenizer_of("byte-bpe")(text)["input_ids"]


def test_characters():
    tokenizer = tokenizer_of("char")
    assert tokenizer("3 월\n", add_special_tokens=False).tokens() == ["3", " ", "월", "\n"]
    assert tokenizer("3@", add_special_tokens=False).tokens() == ["3", "[UNK]"]
    by_frequency = train_tokenizer(["cb", "bba", "c"], "char", 8)
    assert by_frequency.convert_ids_to_tokens(range(5, 8)) == ["b", "c", "a"]


@pytest.mark.parametrize("tokenizer_type", TOKENIZER_TYPES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_normalization(tokenizer_type, normalization):
    tokenizer = tokenizer_of(tokenizer_type, normalization)
    assert decode(tokenizer, "가나다라") == unicodedata.normalize(normalization.upper(), "가나다라")


def test_nfd_takes_syllables_apart():
    """각, never seen, is made of letters that other syllables have."""
    trained = train_tokenizer(["가", "막"], "char", 100, "nfd")
    assert decode(trained, "각") == unicodedata.normalize("NFD", "각")
    assert 1 in train_tokenizer(["가", "막"], "char", 100)("각")["input_ids"]


@pytest.mark.parametrize("tokenizer_type", TOKENIZER_TYPES)
def test_words_given_one_by_one(tokenizer_type):
    words = ["the", "", "café", " ", "\u200b", "목요일", "theme"]
    encoded = tokenizer_of(tokenizer_type)(words, is_split_into_words=True)
    ids = encoded.word_ids()
    assert ids[0] is ids[-1] is None
    inner = ids[1:-1]
    assert inner == sorted(inner)
    assert set(inner) == set(range(len(words))) - {1}
    assert all(index == 0 or inner.count(index) < 10 for index in inner)


@pytest.mark.parametrize("tokenizer_type", TOKENIZER_TYPES)
def test_saved_and_loaded(tokenizer_type, tmp_path):
    tokenizer = tokenizer_of(tokenizer_type, "nfc")
    tokenizer.save_pretrained(tmp_path)
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert loaded.special_tokens_map == tokenizer.special_tokens_map
        assert loaded.model_input_names == ["input_ids", "token_type_ids", "attention_mask"]
        for text in TEXTS:
            assert loaded(text) == tokenizer(text)
            assert decode(loaded, text) == decode(tokenizer, text)


SCRIPT = """
import hashlib, json, sys
from seqblend.tokenization.training import train_tokenizer
from seqblend.tokenization.kinds import TOKENIZER_TYPES
texts = json.load(sys.stdin)
for name in TOKENIZER_TYPES:
    tokenizer = train_tokenizer(texts, name, 300)
    print(name, hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest())
"""


def test_same_texts_same_tokenizer_in_every_process(tmp_path):
    """wordpiece and unigram differ from process to process, and from call to call, as the library trains them."""
    numbers = [f"{a}{b}{c} {chr(0xAC00 + a * 7 + b * 5 + c)}" for a in range(12) for b in range(12) for c in range(3)]
    # Characters that occur only together: unigram training prunes them away, and puts them back in any order.
    texts = numbers + [chr(0x3041 + 2 * i) + chr(0x3042 + 2 * i) for i in range(40)] * 20
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    run = TEMPLATE.run(SCRIPT, cwd=tmp_path, env=environment, given=json.dumps(texts))
    assert run.returncode == 0, run.stderr
    elsewhere = dict(line.split() for line in run.stdout.splitlines())
    for name in TOKENIZER_TYPES:
        trained = {train_tokenizer(iter(texts), name, 300).backend_tokenizer.to_str() for _ in range(3)}
        assert {hashlib.sha256(text.encode()).hexdigest() for text in trained} == {elsewhere[name]}, name


@pytest.mark.parametrize("tokenizer_type", TOKENIZER_TYPES)
def test_vocab_size_is_a_limit(tokenizer_type):
    with pytest.raises(InputError, match=f"vocab_size: 20 is too small for tokenizer_type {tokenizer_type}") as caught:
        train_tokenizer(TEXTS, tokenizer_type, 20)
    needed = int(str(caught.value).rsplit(" ", 1)[1])
    assert needed == NEEDED.get(tokenizer_type, needed)
    assert len(train_tokenizer(TEXTS, tokenizer_type, needed)) == needed
    with pytest.raises(InputError, match=str(needed)):
        train_tokenizer(TEXTS, tokenizer_type, needed - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TEXTS, "bytebpe", 300), "tokenizer_type: unknown value 'bytebpe'; valid are byte-bpe, "),
        ((TEXTS, "char", 300, "NFD"), "normalization: unknown value 'NFD'; valid are nfd, "),
        ((["", ""], "char", 300), "tokenizer_type: char cannot be trained"),
        (("a whole file", "char", 300), "texts: must be several texts"),
    ],
)
def test_wrong_argument(arguments, message):
    with pytest.raises(InputError, match=message):
        train_tokenizer(*arguments)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("sequence-classification", ["a b", "", "c", "d"]),
        ("token-classification", ["x", " ", "y"]),
        ("seq2seq-lm", ["s", "u", "t", "v"]),
        ("causal-lm", ["a b", ""]),
        ("masked-lm", ["a b", ""]),
    ],
)
def test_texts_can_be_gone_through_again(task, expected):
    split = datasets.Dataset.from_dict({
        "text": ["a b", ""], "text_pair": ["c", "d"], "label": ["no", "no"], "tokens": [["x", " "], ["y"]],
        "tags": [["O", "O"], ["O"]], "source": ["s", "u"], "target": ["t", "v"],
    })  # fmt: skip
    texts = Texts(split, TASKS[task].text_columns)
    assert list(texts) == list(texts) == expected


# --- Prompts ---


def bare_bert(directory):
    """A tokenizer of a class that adds special tokens whenever it is loaded."""
    entries = [*SPECIAL_TOKENS, "the", "cat"]
    (directory / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    return load_tokenizer(directory)


@pytest.mark.parametrize("is_trained", [True, False])
def test_a_prompt_is_not_closed(is_trained, tmp_path):
    """What the model was to continue ended with [SEP], after which another text began."""
    tokenizer = tokenizer_of("byte-bpe") if is_trained else bare_bert(tmp_path)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length, tokenizer.padding_side = 77, "left"
    bare = without_special_tokens(tokenizer)
    bare.save_pretrained(tmp_path / "saved")
    for each in (bare, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert each("the cat")["input_ids"] == each("the cat", add_special_tokens=False)["input_ids"]
        assert not set(each("the", "cat")["input_ids"]) & set(tokenizer.all_special_ids)
        assert each.special_tokens_map == tokenizer.special_tokens_map and each.get_vocab() == tokenizer.get_vocab()
        assert (each.model_max_length, each.padding_side) == (77, "left")
    assert is_trained_here(bare) or not is_trained
    assert without_special_tokens(bare) is bare


@settings(max_examples=20)
@given(text=st.text(st.sampled_from("the catsom \n.목"), max_size=20), data=st.data())
@pytest.mark.parametrize("from_closed", [True, False])
@pytest.mark.parametrize("tokenizer_type", TOKENIZER_TYPES)
def test_a_continuation_keeps_its_first_space(tokenizer_type, from_closed, text, data):
    """transformers' text-generation pipeline decodes it alone: "the cat" went on as "the catsat on the mat"."""
    tokenizer = continuing(tokenizer_type, from_closed)
    encoded = tokenizer(text)
    ids, offsets = encoded["input_ids"], encoded.encodings[0].offsets
    assert tokenizer.decode(ids) == text
    # Not inside of a character that is several tokens.
    cuts = [place for place in range(len(ids) + 1) if place in (0, len(ids)) or offsets[place - 1] != offsets[place]]
    cut = data.draw(st.sampled_from(cuts))
    assert tokenizer.decode(ids[:cut]) + tokenizer.decode(ids[cut:]) == text
    assert all(text[a:b].isspace() or text[a:b] == text[a:b].strip(" ") for a, b in offsets)


@cache
def continuing(tokenizer_type, from_closed):
    """A tokenizer for texts that are continued: trained so, or made of one for texts that are closed."""
    texts = ["the cat sat on the mat.\n목"] * 3
    trained = train_tokenizer(texts, tokenizer_type, 300, adds_special_tokens=from_closed)
    return without_special_tokens(trained)


# --- Loading ---


@pytest.mark.parametrize(("entries", "tokens"), [(["ab", "##c"], ["ab", "##c"]), (["Ab", "ab", "##C"], ["Ab", "##C"])])
def test_directory_with_only_a_vocab_txt(tmp_path, entries, tokens):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *entries]) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("AbC").tokens() == ["[CLS]", *tokens, "[SEP]"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("[CLS]", "[SEP]", "[PAD]")


def test_directory_with_only_vocab_json_and_merges(tmp_path):
    trained = tokenizer_of("byte-bpe").backend_tokenizer
    trained.model.save(str(tmp_path))
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    vocab["<|endoftext|>"] = len(vocab)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert decode(tokenizer, "the 목요일 theme") == "the 목요일 theme"
    names = ("bos_token", "eos_token", "cls_token", "sep_token", "pad_token")
    assert {getattr(tokenizer, name) for name in names} == {"<|endoftext|>"}
    assert len(tokenizer) == len(vocab)


def test_tokenizer_without_any_special_token(tmp_path):
    tokenizer = tokenizer_of("char")
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config = {name: value for name, value in config.items() if not name.endswith("_token")}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"tokenizer_name_or_path: .* has no bos_token"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["/no/such/directory", "./no", "no such name", "{empty}"])
def test_tokenizer_that_is_not_there(tmp_path, name):
    name = name.format(empty=tmp_path)
    with pytest.raises(InputError) as caught:
        load_tokenizer(name)
    assert str(caught.value).startswith("tokenizer_name_or_path: ") and name in str(caught.value)
