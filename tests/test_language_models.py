"""What language models are trained on: words masked whole, spans that can be put back, documents that are apart."""

import itertools
import re

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import collator_of
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, Seq2SeqTrainingArguments

from seqblend import BlendDecoderForCausalLM
from seqblend.data.errors import InputError
from seqblend.tasks.causal_lm import cut_stream, pack_documents
from seqblend.tasks.corruption import IGNORE, SENTINEL, Noise, add_sentinels, cut_spans, mask_tokens, sentinel_ids
from seqblend.tasks.encoding import Settings
from seqblend.tasks.registry import TASKS
from seqblend.tasks.splits import encode_split
from seqblend.tokenization.kinds import TOKENIZER_TYPES
from seqblend.tokenization.loading import load_tokenizer
from seqblend.tokenization.training import train_tokenizer
from seqblend.training.trainer import BlendTrainer

PROPERTY = settings(max_examples=15)
TEXTS = ["Donnerstag, 6. März 2031", "ab ba cab", "वह चला गया", "abc", ""]
TOKENIZERS = {kind: train_tokenizer(["abcabc cab bac", *TEXTS], kind, 320) for kind in TOKENIZER_TYPES}
CHAR = TOKENIZERS["char"]


def settings_for(tokenizer=CHAR, length=64, **options):
    lengths = dict.fromkeys(("max_length", "max_source_length", "max_target_length"), length)
    defaults = {"labels": [], "problem_type": None, "token_types": False, "seed": 0}
    return Settings(tokenizer=tokenizer, **{**lengths, **defaults, **options})


def encode(task, texts, options, split="train"):
    return encode_split(
        TASKS[task], datasets.Dataset.from_dict({"text": list(texts)}), options, split
    ).features.to_list()


# --- Masked words ---


@pytest.fixture(scope="module")
def every_tokenizer(tmp_path_factory):
    """Those that are trained here, as they are and saved and loaded, and one of a BERT vocabulary alone."""
    bare = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc", *(f"##{letter}" for letter in "abc"), "ab", "##ca"]
    (bare / "vocab.txt").write_text("\n".join(words))
    found = {**TOKENIZERS, "BERT's": load_tokenizer(bare)}
    for kind in ("char", "unigram"):
        tokenizer = TOKENIZERS[kind]
        tokenizer.save_pretrained(bare / kind)
        found[f"saved {kind}"] = AutoTokenizer.from_pretrained(bare / kind)
    return found


@pytest.mark.parametrize("split", ["train", "test"])
@settings(max_examples=2)
@given(texts=st.lists(st.text("abcá, 6", max_size=12), min_size=30, max_size=40), seed=st.integers(0, 99))
def test_words_are_masked_whole(split, every_tokenizer, texts, seed):
    texts = ["ab cab", *texts]
    for name, tokenizer in every_tokenizer.items():
        options = settings_for(tokenizer, seed=seed, noise=Noise(0.5, whole_words=True))
        rows = encode("masked-lm", texts, options, split)
        batch = TASKS["masked-lm"].make_collator(options)(rows)
        for text, labels in zip(texts, batch["labels"], strict=True):
            encoding = tokenizer(text)
            chosen = {}
            for word, label in zip(encoding.word_ids(), labels.tolist(), strict=False):
                chosen.setdefault(word, set()).add(label != IGNORE)
            assert all(len(fates) == 1 for fates in chosen.values()), (name, encoding.tokens(), labels)
            assert None not in chosen or chosen[None] == {False}


def test_the_words_of_characters_are_not_characters():
    """Of letters and the marks on them; white space and signs are apart."""
    for text in TEXTS:
        encoding = CHAR(text, add_special_tokens=False)
        words = [
            "".join(token for _, token in group)
            for _, group in itertools.groupby(
                zip(encoding.word_ids(), encoding.tokens(), strict=True), key=lambda each: each[0]
            )
        ]
        assert "".join(words) == text
        assert [word for word in words if word.isalpha()] == re.findall(r"[^\W\d_]+", text) or not text.isascii()
    assert CHAR.convert_ids_to_tokens(CHAR("वह चला", add_special_tokens=False)["input_ids"])[:2] == ["व", "ह"]
    assert len(set(CHAR("गया", add_special_tokens=False).word_ids())) == 1


def test_the_share_of_words_is_the_one_asked_for_and_a_tenth_of_their_tokens_stay():
    text = " ".join(["abc"] * 2000)
    noise = Noise(0.3, whole_words=True)
    rows = encode("masked-lm", [text], settings_for(length=10_000, noise=noise))
    batch = collator_of("masked-lm", CHAR, noise)(rows)
    told = batch["labels"][0] != IGNORE
    assert told.float().mean().item() == pytest.approx(0.3, abs=0.02)
    masked = batch["input_ids"][0][told]
    assert (masked == CHAR.mask_token_id).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (masked == batch["labels"][0][told]).float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_a_word_with_an_unknown_piece_is_left_alone():
    """What an unknown piece was nobody can tell."""
    tokenizer, noise = CHAR, Noise(0.99, whole_words=True)
    (row,) = encode("masked-lm", ["ab aXb ba"], settings_for(tokenizer, noise=noise))
    labels = collator_of("masked-lm", tokenizer, noise)([row])["labels"][0]
    assert (labels[4:7] == IGNORE).all() and (labels[1:3] != IGNORE).any()


@pytest.mark.parametrize("seed", range(20))
def test_one_word_is_chosen_where_chance_has_chosen_none_and_no_word_more_where_it_has(seed):
    words = np.array([-1, 0, 0, 1, 2, 2, -1])
    tokens = np.arange(10, 17)
    labels = [
        mask_tokens(tokens, words, CHAR, 0.3, np.random.default_rng(seed), at_least_one)[1]
        for at_least_one in (False, True)
    ]
    told = {int(word) for word in words[labels[1] != IGNORE]}
    assert np.array_equal(*labels) if (labels[0] != IGNORE).any() else len(told) == 1
    assert -1 not in told and np.array_equal(labels[1] != IGNORE, np.isin(words, list(told)))


def test_a_tokenizer_without_words_is_refused():
    whole = train_tokenizer(TEXTS, "char", 300)
    whole.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    with pytest.raises(InputError, match="mask_whole_words: the tokenizer takes every text for one word"):
        encode("masked-lm", ["ab ba"], settings_for(whole, noise=Noise(whole_words=True)))


# --- Spans ---


def put_back(source, target, sentinels):
    """The text of which cut_spans made these."""
    spans, text = {}, []
    for token in target:
        if token in sentinels:
            spans[token] = []
        else:
            spans[next(reversed(spans))].append(token)
    for token in source:
        text += spans.pop(token) if token in sentinels else [token]
    assert not spans
    return text


@PROPERTY
@given(length=st.integers(0, 60), share=st.floats(0.01, 0.9), mean=st.floats(1.0, 5.0), seed=st.integers(0, 2**32 - 1))
def test_source_and_target_give_the_text_back(length, share, mean, seed):
    noise, tokens, sentinels = Noise(share, mean_span_length=mean), np.arange(length), list(range(100, 200))
    source, target = cut_spans(tokens, noise, sentinels, np.random.default_rng(seed))
    assert put_back(source, target, sentinels) == tokens.tolist()
    num_noise, num_spans = noise.spans_of(length)
    # Sentinels come in order, and no two stand together.
    for side in (source, target):
        assert [token for token in side if token >= 100] == sentinels[:num_spans]
        assert not any(a >= 100 <= b for a, b in itertools.pairwise(side))
    assert (len(source), len(target)) == (length - num_noise + num_spans, num_noise + num_spans)
    assert length < 2 or 1 <= num_noise < length


def test_every_place_is_as_likely_to_be_cut_out():
    generator, noise, tokens = np.random.default_rng(0), Noise(0.2), np.arange(20)
    cut = np.zeros(20)
    for _ in range(3000):
        target = cut_spans(tokens, noise, [100], generator)[1]
        cut[target[1:]] += 1
    # One span of four: in the middle four places of seventeen begin one that has the token in it.
    assert cut[4:16] / 3000 == pytest.approx(4 / 17, abs=0.04)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_rows_can_be_put_back_and_are_cut_anew_in_each_epoch(kind):
    tokenizer, noise = train_tokenizer(["abcabc cab bac", *TEXTS], kind, 320), Noise(0.3, mean_span_length=2)
    add_sentinels(tokenizer, 64, noise)
    options, sentinels = settings_for(tokenizer, noise=noise), sentinel_ids(tokenizer)
    collator = collator_of("denoising", tokenizer, noise)
    rows = encode("denoising", TEXTS, options)
    batches = []
    for epoch in (0, 0, 1, 2, 3):
        collator.epoch = epoch
        batch = collator([dict(row) for row in rows])
        batches.append(batch["input_ids"].tolist())
        for text, length, source, mask, labels in zip(
            *(TEXTS, [row["length"] for row in rows]),
            *(batch[name] for name in ("input_ids", "attention_mask", "labels")),
            strict=True,
        ):
            source, target = source[mask.bool()].tolist(), labels[labels != IGNORE].tolist()
            assert len(source) + len(target) == length and target.pop() == tokenizer.eos_token_id
            assert put_back(source, target, sentinels) == tokenizer(text)["input_ids"]
            # Those around the text are not cut out.
            assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & {*target}
    assert batches[0] == batches[1] and any(batch != batches[0] for batch in batches)
    evaluated = [encode("denoising", TEXTS, options, "test") for _ in range(2)]
    assert evaluated[0] == evaluated[1] and set(evaluated[0][0]) == {"input_ids", "attention_mask", "labels"}


def test_sentinels_are_saved_and_only_those_missing_are_added(tmp_path):
    tokenizer, noise = train_tokenizer(TEXTS, "char", 300), Noise(0.4, mean_span_length=1)
    size = len(tokenizer)
    assert add_sentinels(tokenizer, 8, noise) == 3 and len(tokenizer) == size + 3
    assert add_sentinels(tokenizer, 8, noise) == 0 and add_sentinels(tokenizer, 10, noise) == 1
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert sentinel_ids(loaded) == sentinel_ids(tokenizer) == list(range(size, size + 4))
    assert loaded.decode(loaded(f"a{SENTINEL.format(3)}b")["input_ids"], skip_special_tokens=True) == "ab"
    with pytest.raises(InputError, match=r"mask_probability: 0\.9 of max_length=10"):
        add_sentinels(tokenizer, 10, Noise(0.9, mean_span_length=1))


# --- Documents ---


def documents_of(row):
    """The documents of a row, told by their positions."""
    starts = [index for index, position in enumerate(row["position_ids"]) if position == 0]
    return [row["input_ids"][start:end] for start, end in itertools.pairwise([*starts, len(row["input_ids"])])]


@PROPERTY
@given(texts=st.lists(st.text("abc ", max_size=9), min_size=1, max_size=6).filter(any), length=st.integers(2, 7))
def test_documents_are_packed_in_order_and_only_longer_ones_are_cut(texts, length):
    rows = encode("causal-lm", texts, settings_for(length=length, pack_documents=True))
    documents = [document for row in rows for document in documents_of(row)]
    whole = [[*CHAR(text, add_special_tokens=False)["input_ids"], CHAR.eos_token_id] for text in texts]
    assert documents == [ids[start : start + length] for ids in whole for start in range(0, len(ids), length)]
    sizes = [len(row["input_ids"]) for row in rows]
    assert max(sizes) <= length
    # The first document of a row had no room in the one before.
    firsts = [len(documents_of(row)[0]) for row in rows]
    assert all(size + following > length for size, following in zip(sizes, firsts[1:], strict=False))
    for row in rows:
        assert row["labels"] == [
            IGNORE if position == 0 else token
            for token, position in zip(row["input_ids"], row["position_ids"], strict=True)
        ]


def test_cut_documents_are_counted(caplog):
    options = settings_for(length=4, pack_documents=True)
    rows = datasets.Dataset.from_dict({"input_ids": [[5] * 9, [5] * 4, [5] * 5, [5]]})
    TASKS["causal-lm"].check_documents(rows, options, "train")
    assert caplog.messages == ["train: 2 of 4 documents are longer than max_length=4 and are cut into 5 pieces"]
    with pytest.raises(InputError, match=r"train: no text has a token"):
        TASKS["causal-lm"].check_documents(datasets.Dataset.from_dict({"input_ids": [[3], [3]]}), options, "train")


@PROPERTY
@given(
    texts=st.lists(st.text("abc ", max_size=9), min_size=1, max_size=9), length=st.integers(2, 7), pack=st.booleans()
)
def test_documents_that_come_in_parts_are_grouped_as_if_they_came_at_once(texts, length, pack):
    documents = [[*CHAR(text, add_special_tokens=False)["input_ids"], CHAR.eos_token_id] for text in texts]

    def rows(parts):
        arrays = (pa.array(part, pa.list_(pa.int32())) for part in parts)
        batches = pack_documents(((ids, ids) for ids in arrays), length) if pack else cut_stream(arrays, length)
        return [row for batch in batches for row in batch.to_pylist()]

    assert rows([documents]) == rows([[each] for each in documents])


def test_the_loss_of_packed_documents_is_that_of_each_on_its_own(tmp_path):
    """In training, however the rows are batched and accumulated, and in evaluation; nothing is padded."""
    texts = ["ab", "abcab cab", "", "c", "ba ba", "abcabcab", "a", "bac"]
    rows = encode("causal-lm", texts, settings_for(length=12, pack_documents=True))
    model = BlendDecoderForCausalLM(tiny_config(BlendDecoderForCausalLM.config_class)).double()
    documents = [torch.tensor([document]) for row in rows for document in documents_of(row)]
    with torch.no_grad():
        model.eval()
        total = sum(model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1) for ids in documents)
    expected = (total / sum(ids.shape[1] - 1 for ids in documents)).item()
    batch = collator_of("causal-lm", CHAR)(rows)
    assert batch["input_ids"].shape == (1, sum(ids.shape[1] for ids in documents)) and "attention_mask" not in batch
    for size, accumulation in ((len(rows), 1), (1, len(rows))):
        args = Seq2SeqTrainingArguments(
            str(tmp_path),
            **{"max_steps": 1, "learning_rate": 0.0, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"},
            **{"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation},
            per_device_eval_batch_size=size,
        )
        data = datasets.Dataset.from_list(rows)
        trainer = BlendTrainer(
            scorers={},
            **{"model": model, "args": args, "train_dataset": data, "eval_dataset": data},
            data_collator=collator_of("causal-lm", CHAR),
        )
        assert trainer.train().training_loss == pytest.approx(expected, rel=1e-6)  # summed in float32
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-9)
