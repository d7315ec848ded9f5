"""The explorer: its page has what the model computed, and the answer of `seqblend predict`."""

import base64
import gzip
import json
import re
import unicodedata

import numpy as np
import pytest
import torch
from conftest import (
    BASES,
    HEADS,
    MIXERS,
    SLIDING,
    draw,
    every_pairing,
    is_encoder_decoder,
    padded,
    tiny_model,
)
from test_prediction import (  # noqa: F401 - model_of is a fixture
    CASES,
    CLASSIFY,
    TAG,
    TEXTS,
    TRANSLATE,
    assert_same,
    model_of,
    predict,
    rows_of,
)
from test_train_command import write
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from seqblend import Predictor
from seqblend.__main__ import main
from seqblend.data.errors import InputError
from seqblend.explorer import explorer as explorer_module
from seqblend.explorer import tokens as tokens_module
from seqblend.explorer.attribution import gradient_times_input, pooled_share, rollout
from seqblend.explorer.explorer import Limits
from seqblend.explorer.packing import pack_layers, pack_vectors, pack_weights, spaced
from seqblend.explorer.page import page
from seqblend.explorer.reading import on_input
from seqblend.explorer.recording import Layer, Recording, record
from seqblend.explorer.registry import SHAPES
from seqblend.explorer.shapes import DECODER, ENCODER
from seqblend.explorer.tokens import SplitText, input_tokens, written_tokens
from seqblend.hub_card.illustrate import load_explorer
from seqblend.hub_card.saved import read_saved
from seqblend.modeling.decoder import BlendDecoderForCausalLM
from seqblend.modeling.encoder import (
    BlendEncoderForSequenceClassification,
    BlendEncoderForTokenClassification,
    BlendEncoderModel,
)
from seqblend.modeling.encoder_decoder import (
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderDecoderForSequenceClassification,
)
from seqblend.modeling.hooks import has_hooked_submodule
from seqblend.tasks.registry import TASKS
from seqblend.tokenization.training import train_tokenizer

ALL = {ENCODER: slice(0, 999), DECODER: slice(0, 999)}
BIASES = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 6}
OPTIONS = [
    {},
    {"position_type": "learned", "norm_position": "post"},
    {"query_key_norm": True, "num_key_value_heads": 1},
    {**SLIDING, "position_type": "sinusoidal"},
    {**BIASES, **SLIDING},
    {**BIASES, "relative_attention_per_layer": True},
]
every_kind = every_pairing(model_class=BASES + HEADS, options=OPTIONS)


def recorded(model, batch, visible=ALL):
    with torch.no_grad(), record(model, visible) as recording:
        output = model(**batch)
    return recording, output


def test_windows_that_are_computed_in_blocks():
    """A long sequence with sliding layers: it stays padded while it is recorded."""
    model, batch = tiny_model(BlendEncoderModel, **SLIDING), batch_of(BlendEncoderModel, 100)
    recording, output = recorded(model, batch)
    torch.testing.assert_close(output[0], model(**batch)[0])
    reach = torch.arange(100)[:, None] - torch.arange(100)
    assert recording.layers[1].weights[:, reach.abs() > SLIDING["sliding_window"]].max() == 0
    assert recording.layers[0].weights[:, reach.abs() > SLIDING["sliding_window"]].max() > 0


def batch_of(model_class, length=9):
    return padded(draw(model_class, [length], labels=False))


# --- What is recorded ---


@every_kind
def test_weights_are_those_of_the_model_and_the_model_stays_as_it_was(model_class, options):
    model = tiny_model(model_class, **options)
    batch = batch_of(model_class)
    before = model(**batch)[0]
    recording, output = recorded(model, batch)
    torch.testing.assert_close(output[0], before)
    assert model.config._attn_implementation == "sdpa" and not has_hooked_submodule(model)
    assert torch.equal(model(**batch)[0], before)

    model.set_attn_implementation("eager")
    output = model(**batch, output_attentions=True)
    expected = {ENCODER: output.get("attentions"), DECODER: output.get("attentions"), "cross": None}
    if is_encoder_decoder(model_class):
        names = {ENCODER: "encoder_attentions", DECODER: "decoder_attentions", "cross": "cross_attentions"}
        expected = {role: output[name] for role, name in names.items()}
    for role in {layer.role for layer in recording.layers}:
        layers = recording.of(role)
        for layer, weights in zip(layers, expected[role], strict=True):
            torch.testing.assert_close(layer.weights.double(), weights[0], atol=1e-6, rtol=0)
            torch.testing.assert_close(layer.mean_weights.double(), weights[0].mean(0), atol=1e-6, rtol=0)


@every_kind
def test_the_arithmetic_of_each_cell_gives_its_weight(model_class, options):
    """Queries, keys, the scaling and the logarithm of the sum, as the page carries them."""
    recording, _ = recorded(tiny_model(model_class, **options), batch_of(model_class))
    for layer in recording.layers:
        queries, keys, values, log_sums, *biases = unpacked_vectors(layer)
        groups = len(queries) // len(keys)
        scores = queries @ keys.repeat(groups, 0).transpose(0, 2, 1) * layer.scaling
        assert len(biases) == ("relative_attention_num_buckets" in options and layer.role != "cross")
        for each in biases:
            rows, columns = np.indices(scores.shape[1:])
            scores += each[:, columns - rows + len(rows) - 1]
        weights = layer.weights.numpy()
        found = np.where(weights > 0, np.exp(scores - log_sums[..., None]), 0)
        # float16 has eleven bits, and scores are up to some tens here.
        assert np.abs(found - weights).max() < 0.03 * max(1, np.abs(scores).max() / 30)
        np.testing.assert_allclose(values, layer.values.numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("options", [{}, BIASES, {**BIASES, "relative_attention_per_layer": True}, SLIDING], ids=str)
@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM])
def test_weights_of_a_model_in_half_precision_are_not_rounded(model_class, options):
    """They are those of its queries and keys, as in kernels that add up in float32: rows sum to one."""
    model = tiny_model(model_class, **options).bfloat16()
    with torch.no_grad(), record(model, ALL) as recording:
        rounded = model(**batch_of(model_class, 30), output_attentions=True)
    for layer in recording.layers:
        torch.testing.assert_close(layer.weights.sum(-1), torch.ones(layer.weights.shape[:2]), atol=1e-5, rtol=0)
        scores = layer.queries @ layer.keys.repeat_interleave(len(layer.queries) // len(layer.keys), 0).mT
        scores = scores * layer.scaling
        if layer.biases is not None:
            rows, columns = np.indices(scores.shape[1:])
            scores = scores + layer.biases[:, columns - rows + len(rows) - 1]
        seen = layer.weights > 0
        torch.testing.assert_close(
            (scores - layer.log_sums[..., None]).exp()[seen], layer.weights[seen], atol=1e-4, rtol=0
        )
    name = "attentions" if model_class is BlendDecoderForCausalLM else "decoder_attentions"
    for layer, weights in zip(recording.of(DECODER), rounded[name], strict=True):
        assert (layer.weights - weights[0]).abs().max() < 0.1 and layer.weights.triu(1).max() == 0


def unpacked_vectors(layer):
    content = gzip.decompress(base64.b64decode(pack_vectors(layer)))
    arrays, start = [], 0
    parts = [(each, "<f2") for each in (layer.queries, layer.keys, layer.values)] + [(layer.log_sums, "<f4")]
    for states, kind in parts if layer.biases is None else [*parts, (layer.biases, "<f4")]:
        array = np.frombuffer(content, kind, states.numel(), start).reshape(states.shape)
        arrays.append(array.astype(np.float64))
        start += array.nbytes
    assert start == len(content)
    return arrays


@pytest.mark.parametrize("model_class", HEADS, ids=lambda each: each.__name__)
def test_only_visible_tokens_are_recorded(model_class):
    model, batch = tiny_model(model_class), batch_of(model_class)
    visible = {ENCODER: slice(2, 6), DECODER: slice(1, 4)}
    whole, part = recorded(model, batch)[0], recorded(model, batch, visible)[0]
    axes = {ENCODER: (ENCODER, ENCODER), DECODER: (DECODER, DECODER), "cross": (DECODER, ENCODER)}
    for one, other in zip(whole.layers, part.layers, strict=True):
        rows, columns = (visible[role] for role in axes[one.role])
        assert torch.equal(one.weights[:, rows, columns], other.weights)
        assert torch.equal(one.mean_weights, other.mean_weights)
        assert torch.equal(one.log_sums[:, rows], other.log_sums) and torch.equal(one.keys[:, columns], other.keys)


def test_a_byte_of_a_weight():
    weights = torch.rand(2, 3, 5)
    layer = Layer("self", weights, weights.mean(0), *torch.zeros(4, 1, 1, 1), scaling=1.0, biases=None)
    found, strongest = unpacked_weights(pack_weights(layer), weights.shape)
    assert np.abs(found[1:] - weights.numpy()).max() <= 1 / 255
    assert np.abs(found[0] - weights.mean(0).numpy()).max() <= 1 / 255
    assert (strongest[1:] == weights.argmax(-1).numpy()).all() and (
        strongest[0] == weights.mean(0).argmax(-1).numpy()
    ).all()
    # Small weights are exact, too: those of a long row still sum to one.
    long = torch.randn(1, 4, 500).softmax(-1)
    layer = Layer("self", long, long.mean(0), *torch.zeros(4, 1, 1, 1), scaling=1.0, biases=None)
    found, _ = unpacked_weights(pack_weights(layer), long.shape)
    assert np.abs(found[1:].sum(-1) - 1).max() < 0.02


def unpacked_weights(packed, shape):
    """The weights, first of the mean over heads, and the strongest key of each query, as the page reads them."""
    content, (heads, rows, columns) = gzip.decompress(base64.b64decode(packed)), shape
    count = (heads + 1) * rows * columns
    weights = (np.frombuffer(content, np.uint8, count).reshape(heads + 1, rows, columns) / 255) ** 2
    return weights, np.frombuffer(content, "<u2", offset=count).reshape(heads + 1, rows)


def test_what_does_not_fit_is_left_out_with_a_word():
    def layers(count):
        weights = torch.rand(4, 20, 20)
        vectors = [torch.randn(4, 20, 8) for _ in range(3)]
        return [Layer("self", weights, weights.mean(0), *vectors, torch.zeros(4, 20), 1.0, None) for _ in range(count)]

    def size(carried):
        return sum(len(each[name] or "") for kind in carried for each in kind for name in ("weights", "vectors"))

    kinds = [layers(6), layers(4)]
    whole, notes = pack_layers(kinds, 10**7)
    assert notes == [] and all(each["vectors"] for kind in whole for each in kind)
    assert [[each["layer"] for each in kind] for kind in whole] == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4]]
    for room in np.linspace(2 * size(whole) // 10, size(whole) - 1, 12).astype(int):
        carried, notes = pack_layers(kinds, int(room))
        assert size(carried) <= room and notes
        # The last layers come first.
        for kind in carried:
            has_vectors = [each["vectors"] is not None for each in kind]
            assert has_vectors == sorted(has_vectors) and kind[-1]["layer"] in (4, 6)
    carried, notes = pack_layers(kinds, 0)
    assert [[each["layer"] for each in kind] for kind in carried] == [[6], [4]]
    assert notes == [
        "To keep the page small it has the weights of 1 of 6 layers.",
        "To keep the page small it has the arithmetic of 0 of 2 layers.",
    ]
    assert pack_layers([], 100) == ([], [])
    assert spaced(12, 3) == [0, 6, 11] and spaced(3, 5) == [0, 1, 2] and spaced(7, 2) == [0, 6]


# --- How much came from each token ---


def test_rollout_is_the_product_of_half_attention_and_half_identity():
    model, batch = tiny_model(BlendEncoderModel), batch_of(BlendEncoderModel)
    recording, _ = recorded(model, batch)
    product = torch.eye(9, dtype=torch.float64)
    for layer in recording.layers:
        product = (layer.mean_weights.double() + torch.eye(9)) / 2 @ product
    for place in (0, 4):
        share = torch.zeros(9)
        share[place] = 1
        torch.testing.assert_close(rollout(recording, share, ENCODER)[ENCODER], product[place])


def test_rollout_through_cross_attention():
    """By hand: the layers from the last to the first, in each of them cross-attention first."""
    model_class = BlendEncoderDecoderForSequenceClassification
    recording, _ = recorded(tiny_model(model_class), batch_of(model_class))
    target, source = torch.eye(9, dtype=torch.float64)[-1], torch.zeros(9, dtype=torch.float64)
    for own, cross in zip(recording.of(DECODER)[::-1], recording.of("cross")[::-1], strict=True):
        target = target / 2
        source = source + target @ cross.mean_weights.double()
        target = target / 2 + target / 2 @ own.mean_weights.double()
    for own in recording.of(ENCODER)[::-1]:
        source = source / 2 + source / 2 @ own.mean_weights.double()
    share = torch.eye(9)[-1]
    found = rollout(recording, share, DECODER)
    torch.testing.assert_close(found[DECODER], target)
    torch.testing.assert_close(found[ENCODER], source)
    assert (found[DECODER].sum() + found[ENCODER].sum()).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        *(("cls", [1, 0, 0, 0]), ("last", [0, 0, 0, 1]), ("mean", [0.25] * 4)),
        *(("eos", [0, 0, 1, 0]), ("last_non_pad", [0, 0, 1, 0])),
    ],
)
def test_which_vectors_are_classified(pooling, expected):
    """As the model pools them: a vector that has no share does not change the logits."""
    options = {"pooling": pooling, "num_hidden_layers": 1, "position_type": "none"}
    model = tiny_model(BlendEncoderForSequenceClassification, **options, pad_token_id=7)
    ids = [2, 5, 2, 7]
    assert pooled_share(model.config, ids).tolist() == expected
    changed = []
    for place in range(4):
        handle = model.model.norm.register_forward_hook(
            lambda module, args, states, place=place: states.index_fill(1, torch.tensor([place]), 0.0)
        )
        logits = model(torch.tensor([ids])).logits
        handle.remove()
        changed.append(not torch.allclose(logits, model(torch.tensor([ids])).logits))
    assert changed == [share > 0 for share in expected]
    # Without an end token, the last one.
    assert pooling != "eos" or pooled_share(model.config, [5, 7, 5]).tolist() == [0, 0, 1]


@pytest.mark.parametrize("options", [{}, {"mixer_type": "gru", "pooling": "mean"}], ids=["attention", "gru"])
@pytest.mark.parametrize(
    "model_class", [model for model in HEADS if "SequenceClassification" in model.__name__], ids=lambda m: m.__name__
)
def test_gradient_times_input(model_class, options):
    """The derivative of a logit when the embedding of one token is scaled, in both stacks."""
    model, batch = tiny_model(model_class, **options), batch_of(model_class)
    found = gradient_times_input(model, batch, [0, 2])
    total = sum(found.values())
    step = 1e-5
    for place in (0, 5):
        logits = []
        for factor in (1 - step, 1 + step):
            scale = torch.ones(1, 9, 1, dtype=torch.float64)
            scale[:, place] = factor
            stacks = [stack.embed_tokens for name, stack in model.named_modules() if hasattr(stack, "embed_tokens")]
            handles = [each.register_forward_hook(lambda m, a, states, scale=scale: states * scale) for each in stacks]
            with torch.no_grad():
                logits.append(model(**batch).logits[0])
            for handle in handles:
                handle.remove()
        slope = (logits[1] - logits[0]) / (2 * step)
        torch.testing.assert_close(total[:, place], slope[[0, 2]], rtol=1e-4, atol=1e-6)
    assert not has_hooked_submodule(model) and all(each.grad is None for each in model.parameters())


# --- Tokens ---


# Of the smallest vocabulary that each kind can have: every byte, every character is a token.
SHOWN = {
    ("char", True): (9, ["기", "é", " ", "a"]),
    ("byte-bpe", True): (261, [" ", "기", "기", "기", "é", "é", " ", "a"]),
    ("wordpiece", True): (9, [" ", "기", "é", " ", "a"]),
    ("wordpiece", False): (9, ["기", "é", "a"]),
    ("unigram", True): (9, [" ", "기", "é", " ", "a"]),
}


def texts_of(tokens):
    return [token.text for token in tokens]


def repeats(token):
    """Whether the tokens before it have all of its text."""
    return token.overlap == len(token.text)


def running_text(tokens):
    """The tokens side by side, as the page shows them."""
    return "".join(
        " " * (token.follows_space and bool(token.text.strip())) + token.text[token.overlap :]
        for token in tokens
        if not token.is_special
    )


@pytest.mark.parametrize(("tokenizer_type", "exact"), SHOWN)
def test_tokens_are_slices_of_the_text(tokenizer_type, exact):
    """Not as the vocabulary spells them, `Ġê`, `##é` or `▁`; special tokens have their names."""
    size, shown = SHOWN[tokenizer_type, exact]
    tokenizer = train_tokenizer(["기é a"], tokenizer_type, size, exact=exact)
    found = input_tokens(tokenizer, tokenizer(["기é a"], ["기é a"]), ["기é a", "기é a"])
    assert texts_of(found) == ["[CLS]", *shown, "[SEP]", *shown, "[SEP]"]
    assert [token.text for token in found if token.is_special] == ["[CLS]", "[SEP]", "[SEP]"]
    assert texts_of(written_tokens(tokenizer, tokenizer("기é a")["input_ids"])[0]) == ["[CLS]", *shown, "[SEP]"]


@pytest.mark.parametrize(("tokenizer_type", "exact"), SHOWN)
def test_tokens_side_by_side_are_the_text(tokenizer_type, exact):
    """With the spaces that they follow, and each letter once."""
    size, _ = SHOWN[tokenizer_type, exact]
    tokenizer = train_tokenizer(["기é a"], tokenizer_type, size, exact=exact)
    for found in (
        input_tokens(tokenizer, tokenizer(["기é a"]), ["기é a"]),
        written_tokens(tokenizer, tokenizer("기é a")["input_ids"])[0],
    ):
        assert running_text(found).split() == ["기é", "a"]


def test_letters_of_which_a_token_has_a_part_stand_once():
    """Tokens of bytes may end in one letter and begin the next one, or end a word and begin a letter."""
    texts = ["서울은 한국의 수도이다. Über café naïve", "مرحبا بالعالم שלום", "👩‍👩‍👧 🇰🇷 ❤️ éé ก็"]
    texts.append("日本\u3000語")
    tokenizer, overlaps = train_tokenizer(texts, "byte-bpe", 330), []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        for found in (input_tokens(tokenizer, tokenizer([text]), [text]), written_tokens(tokenizer, ids)[0]):
            assert running_text(found).split() == text.split()
            overlaps += [token.overlap for token in found if not repeats(token)]
            # None is shown as a half.
            assert not any("\ufffd" in token.text for token in found)
    assert any(overlaps)


@pytest.mark.parametrize("text", ["서é", "नमस्ते किताब", "👩\u200d👩\u200d👧 a", "ก็"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("kind", ["char", "byte-bpe"])
def test_letters_are_whole(text, form, kind):
    """No token is a combining mark, half a syllable or half an emoji."""
    text = unicodedata.normalize(form, text)
    tokenizer = train_tokenizer([text], kind, 300, "nfc" if kind == "char" else None)
    for token in input_tokens(tokenizer, tokenizer([text]), [text]):
        if not token.is_special and token.text.strip():
            assert token.text in text
            assert not unicodedata.category(token.text[0]).startswith("M") and token.text[0] != "\u200d"


def test_what_cannot_be_decoded_is_shown_all_the_same():
    """Half a character, and an id that the tokenizer has not."""
    tokenizer = train_tokenizer(["기"], "byte-bpe", 261)
    ids = tokenizer("기", add_special_tokens=False)["input_ids"]
    found, texts = written_tokens(tokenizer, [*ids, ids[1], 3, 999])
    assert texts_of(found) == [" ", "기", "기", "기", "�", "[SEP]", "999"]
    assert [repeats(token) for token in found[:4]] == [False, False, True, True]
    assert texts[:4] == ["", "", "", "기"]
    assert written_tokens(tokenizer, []) == ([], [])
    # Bytes that are no character do not take the character after them: neither a whole one nor the first of several.
    whole, start = ids[1:], ids[1]
    found, texts = written_tokens(tokenizer, [start, *whole, *whole[:2], *whole])
    assert texts_of(found) == ["�", "기", "기", "기", "�", "�", "기", "기", "기"]
    assert [repeats(token) for token in found] == [False, False, True, True, False, True, False, True, True]
    assert texts == ["�", "�", "�", "�기", "�기�", "�기�", "�기�", "�기�", "�기�기"]


def byte_fallback(words):
    """A tokenizer as that of Llama 2: words, characters, and bytes for all others."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *sorted({*"".join(words)})]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, [], byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


def test_bytes_of_a_tokenizer_with_byte_fallback():
    """An incomplete run of bytes decodes to a replacement character for each of them, also for complete ones."""
    tokenizer = byte_fallback(["x"])
    ids = tokenizer("é기x", add_special_tokens=False)["input_ids"]
    found, texts = written_tokens(tokenizer, ids)
    assert texts_of(found) == [" ", "é", "é", "기", "기", "기", "x"]
    assert [repeats(token) for token in found] == [False, False, True, False, True, True, False]
    assert texts == ["", "", "é", "é", "é", "é기", "é기x"]
    read = input_tokens(tokenizer, tokenizer(["é기x"], add_special_tokens=False), ["é기x"])
    assert [token.text for token in read if not repeats(token) and token.text.strip()] == ["é", "기", "x"]
    # The first token only starts a word; the letter after it is not hidden.
    (start, letter) = input_tokens(tokenizer, tokenizer(["x"], add_special_tokens=False), ["x"])
    assert (start.text, letter.text, repeats(letter)) == (" ", "x", False)


def test_written_letters_are_whole():
    text = "👩\u200d👩\u200d👧 ก็"
    tokenizer = byte_fallback(["x"])
    found, texts = written_tokens(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    assert {token.text for token in found if token.text.strip()} == {"👩\u200d👩\u200d👧", "ก็"}
    assert texts[-1] == text


def test_a_long_text_is_split_into_letters_once(monkeypatch):
    """Not once for each token."""
    tokenizer = train_tokenizer(["ab c"], "char", 99)
    calls, bounds = [], tokens_module.grapheme_bounds
    monkeypatch.setattr(tokens_module, "grapheme_bounds", lambda text: calls.append(len(text)) or bounds(text))
    text = "ab c" * 2000
    input_tokens(tokenizer, tokenizer([text], truncation=True, max_length=50), [text])
    assert len(calls) == 1 and calls[0] < 200


def test_words_that_the_tokenizer_got_otherwise():
    """With a space before them, or another word in place of one without tokens."""
    split = SplitText("ab  c", [(0, 2), (4, 5)], ["ab", " c"])
    assert split.span(0, 0, 1) == (0, 1) and split.span(1, 1, 2) == (4, 5)
    replaced = SplitText("a \u200b b", [(0, 1), (2, 3), (4, 5)], ["a", "[UNK]", "b"])
    start, end = replaced.span(1, 0, 5)
    assert (start, end) == (2, 3)


# --- The page's data ---


def data_of(predictor, row, **limits):
    return predictor.explorer(Limits(**limits)).explore(predictor.make_reader().read(row, "row", 1, None))


def answer_in(data):
    """The answer as the page has it, in the form of `seqblend predict`."""
    answer = data["answer"]
    if data["kind"] == "classes":
        predicted = [each["label"] for each in answer["labels"] if each["predicted"]]
        return predicted, {each["label"]: each["score"] for each in answer["labels"]}
    if data["kind"] == "written":
        return answer["text"], answer["score"]
    return [(item.get("label"), item.get("score"), item.get("best")) for item in answer["items"]]


def answer_of(case, predicted):
    if case in (CLASSIFY, "several") or ("scores" in predicted and isinstance(predicted["scores"], dict)):
        named = predicted["prediction"] if isinstance(predicted["prediction"], list) else [predicted["prediction"]]
        return named, predicted["scores"]
    if "masks" in predicted:
        best = [[[each["text"], each["score"]] for each in mask["predictions"]] for mask in predicted["masks"]]
        return [(None, None, each) for each in best]
    if "scores" in predicted:
        return list(zip(predicted["prediction"], predicted["scores"], [None] * len(predicted["scores"]), strict=True))
    return predicted["prediction"], predicted["score"]


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_that_of_predict(name, model_of, tmp_path):  # noqa: F811
    predictor, rows = Predictor(model_of(name)), rows_of(name)
    answers = predict(model_of(name), write(tmp_path / "rows.jsonl", rows), tmp_path / "a.jsonl")
    for row, answer in zip(rows, answers, strict=True):
        data = data_of(predictor, row)
        if name == "numbers":
            found, expected = [each["score"] for each in data["answer"]["labels"]], [answer["prediction"]]
        else:
            found, expected = answer_in(data), answer_of(name, answer)
        assert json.loads(json.dumps(data)) == data
        assert_same(json.loads(json.dumps(found)), json.loads(json.dumps(expected)))
        for kind in data["attention"]:
            shape = (kind["heads"], len(kind["rows"]), len(kind["columns"]))
            for layer in kind["layers"]:
                weights, strongest = unpacked_weights(layer["weights"], shape)
                assert weights.shape == (shape[0] + 1, *shape[1:]) and strongest.max() < shape[2]


@pytest.mark.parametrize("name", [TRANSLATE, "causal-lm"])
def test_steps_are_what_is_written(name, model_of):  # noqa: F811
    """Each step's tokens and probabilities are those of a forward pass of what stands before it."""
    predictor, (column,) = Predictor(model_of(name)), rows_of(name)[0]
    model, tokenizer = predictor.rows.model, predictor.rows.settings.tokenizer
    predictor.rows.generation["min_new_tokens"] = 4
    data = data_of(predictor, {column: "abc cab"})
    answer = data["answer"]
    assert len(answer["steps"]) == answer["total"] > 1 and answer["steps"][-1]["text"] == answer["text"]
    ids = predictor.rows.encode([{column: "abc cab"}]).inputs["input_ids"][0]
    if name == TRANSLATE:
        written = model.generate(torch.tensor([ids]), **predictor.rows.generation)[0]
        logits = model(torch.tensor([ids]), decoder_input_ids=written[None, :-1]).logits[0]
        written = written[1:]
    else:
        sequence = model.generate(torch.tensor([ids]), **predictor.rows.generation)[0]
        logits, written = model(sequence[None]).logits[0, len(ids) - 1 : -1], sequence[len(ids) :]
    best = logits.softmax(-1).topk(5)
    for step, token, scores, tokens in zip(answer["steps"], written, best.values, best.indices, strict=True):
        assert [each[1] for each in step["best"]] == pytest.approx(scores.tolist(), abs=1e-5)
        assert [each[2] for each in step["best"]] == [other == token for other in tokens]
        kind = data["attention"][-1]
        row = kind["rows"][step["row"]]["text"]
        # The row of a target is named by what is written, that of a continued text by what is read.
        assert row == step["token"] if name == TRANSLATE else step["row"] == len(ids) - 1 + answer["steps"].index(step)
    assert tokenizer.decode(written, skip_special_tokens=True) == answer["text"]


@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM])
def test_a_written_character_is_whole_though_not_all_of_its_tokens_are_shown(model_class, tmp_path, monkeypatch):
    tokenizer = train_tokenizer(["기é"], "byte-bpe", 261)
    tokenizer.save_pretrained(tmp_path)
    tiny_model(model_class, vocab_size=len(tokenizer)).float().save_pretrained(tmp_path)
    predictor = Predictor(tmp_path)
    ids = tokenizer("기é기é", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(type(predictor.task), "run_model", lambda *arguments: [(ids, 0.5)])
    for most in range(4, len(ids)):
        steps = data_of(predictor, {predictor.task.inputs[0]: "a"}, tokens=most)["answer"]["steps"]
        assert 1 < len(steps) < len(ids)
        assert {step["token"] for step in steps} <= {" ", "기", "é"}
        assert all("기é기é".startswith(step["text"]) for step in steps)


def test_words_are_in_their_places(model_of):  # noqa: F811
    predictor = Predictor(model_of(TAG))
    text = "서울  abc, cab"
    data = data_of(predictor, {"text": text})
    answer, (kind,) = data["answer"], data["attention"]
    assert "".join(item["before"] + item["text"] for item in answer["items"]) + answer["after"] == text
    for item in answer["items"]:
        assert item["text"].startswith(kind["rows"][item["token"]]["text"])


@pytest.mark.parametrize("outside", ["O", "o"])
def test_words_outside_of_spans_are_not_marked(outside, tmp_path):
    labels = {"num_labels": 2, "id2label": {0: outside, 1: "X"}, "label2id": {outside: 0, "X": 1}}
    predictor = saved_predictor(BlendEncoderForTokenClassification, tmp_path, **labels)
    items = data_of(predictor, {"tokens": ["abc", "cab", "bca", "b"] * 4})["answer"]["items"]
    assert {item["label"] for item in items} == {outside, "X"}
    assert all(item["isOutside"] == (item["label"] == outside) for item in items)


@pytest.mark.parametrize("name", CASES)
def test_a_long_text_is_cut_with_a_word(name, model_of, monkeypatch):  # noqa: F811
    """The answer is that of the whole text as far as it is read."""
    monkeypatch.setattr(explorer_module, "MOST_READ", 24)
    column = next(iter(rows_of(name)[0]))
    words = ["abc"] * 100 + ["[MASK]"]
    data = data_of(Predictor(model_of(name)), {column: words if column == "tokens" else " ".join(words)}, tokens=10)
    assert any("of the input were not read: it has more than" in note for note in data["notes"])
    assert any("are shown. Each row sums to 100 % over all tokens" in note for note in data["notes"])
    for kind in data["attention"]:
        assert max(len(kind["rows"]), len(kind["columns"])) <= 10


@pytest.mark.parametrize(
    ("name", "row"), [(TAG, {"tokens": list("abcabcabc")}), ("masked-lm", {"text": "a[MASK]" * 9})]
)
def test_of_a_text_that_is_cut_on_the_left_the_last_words_have_their_tokens(name, row, model_of):  # noqa: F811
    predictor = Predictor(model_of(name), max_length=8)
    predictor.rows.settings.tokenizer.truncation_side = "left"
    data = data_of(predictor, row)
    (kind,), items = data["attention"], data["answer"]["items"]
    # The words or masks that were not read have no token.
    is_read = [item["score"] is not None if name == TAG else bool(item["best"]) for item in items]
    assert is_read == [item["token"] is not None for item in items] == sorted(is_read) and 0 < sum(is_read) < 9
    for item in items:
        assert item["token"] is None or kind["rows"][item["token"]]["text"] == item["text"]


@pytest.mark.parametrize(("side", "part"), [("right", "beginning"), ("left", "end")])
def test_what_reads_windows_says_so(side, part, model_of):  # noqa: F811
    predictor = Predictor(model_of(CLASSIFY), overflow="window", max_length=20)
    predictor.rows.settings.tokenizer.truncation_side = side
    notes = data_of(predictor, {"text": "abc cab " * 20})["notes"]
    assert any(
        f"Prediction reads such a text in windows; the answer on this page is about its {part}" in note
        for note in notes
    )
    assert not any("windows" in note for note in data_of(predictor, {"text": "abc"})["notes"])


def test_options_of_answers_do_not_change_what_is_shown(model_of):  # noqa: F811
    given = [data_of(Predictor(model_of(CLASSIFY), **options), {"text": "abc"}) for options in ({}, {"top_k": 1})]
    assert given[0] == given[1]


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({}, None),
        ({"num_beams": 3}, "The text was found by a search with 3 beams"),
        ({"do_sample": True}, "The text was drawn at random"),
        ({"suppress_tokens": [*range(5, 12)]}, "In places rules of generation, or rounding, chose others"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_how_a_text_was_chosen(settings, note, model_of):  # noqa: F811
    predictor = Predictor(model_of(TRANSLATE))
    predictor.rows.generation |= {"min_new_tokens": 4, **settings}
    notes = " ".join(data_of(predictor, {"source": "abc"})["notes"])
    assert note is None or note in notes
    # Greedy choices need no word.
    assert settings or ("beams" not in notes and "random" not in notes)


def test_an_answer_that_is_no_number_is_an_error(model_of):  # noqa: F811
    predictor = Predictor(model_of(CLASSIFY))
    predictor.rows.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="has a number that is not finite"):
        predictor.explore({"text": "abc"})


@pytest.mark.parametrize("shift_start", ["last_token", "start_token"])
def test_a_source_that_is_read_shifted(shift_start):
    """The share of the start token is that of the token of the input that it repeats, or stands first."""
    model_class = BlendEncoderDecoderForSequenceClassification
    options = {"shift_source": True, "shift_start": shift_start}
    model, batch = tiny_model(model_class, **options), batch_of(model_class)
    recording, _ = recorded(model, batch)
    ids = batch["input_ids"][0].tolist()
    shares = rollout(recording, pooled_share(model.config, ids), DECODER)
    total = on_input(shares, recording, ids)
    assert total.sum().item() == pytest.approx(1, abs=1e-6)
    assert len(total) == 9 + (shift_start == "start_token")
    own = shares[ENCODER]
    if shift_start == "last_token":
        assert total[-1].item() == pytest.approx((own[-1] + shares[DECODER][0]).item())
    else:
        assert total[0] == shares[DECODER][0]
        torch.testing.assert_close(total[1:-1], own[:-1] + shares[DECODER][1:])


@pytest.mark.parametrize("name", [CLASSIFY, "several", "numbers"])
def test_classes_have_their_attributions(name, model_of):  # noqa: F811
    data = data_of(Predictor(model_of(name)), {"text": "abc 서울"})
    answer = data["answer"]
    assert sum(answer["rollout"]) == pytest.approx(1, abs=1e-6) and min(answer["rollout"]) > 0
    scores = [each["score"] for each in answer["labels"]]
    assert answer["isNumber"] or scores == sorted(scores, reverse=True)
    for label in answer["labels"]:
        assert len(label["gradient"]) == len(answer["tokens"]) == len(answer["rollout"])


@pytest.mark.parametrize(("number", "notes"), [(5, []), (6, ["The 5 most probable of 6 classes are shown."])])
def test_classes_that_are_left_out_are_counted(number, notes, tmp_path):
    data = data_of(
        saved_predictor(BlendEncoderForSequenceClassification, tmp_path, num_labels=number), {"text": "abc"}
    )
    assert len(data["answer"]["labels"]) == 5 and data["notes"] == notes


def test_what_is_left_out_of_both_stacks_is_said_once(tmp_path):
    predictor = saved_predictor(BlendEncoderDecoderForSequenceClassification, tmp_path)
    notes = data_of(predictor, {"text": "abc cab"}, tokens=3)["notes"]
    assert len(notes) == 1 and notes[0].startswith("Tokens 7 to 9 of 9 are shown.")


def saved_predictor(model_class, directory, **options):
    """Of an untrained model whose tokens are characters."""
    tokenizer = train_tokenizer(["abc cab"], "char", 99)
    tokenizer.save_pretrained(directory)
    tiny_model(model_class, vocab_size=len(tokenizer), **options).float().save_pretrained(directory)
    return Predictor(directory)


@pytest.mark.parametrize("mixer", MIXERS)
def test_recurrent_models_say_what_they_do_not_have(mixer, tmp_path):
    options = {"mixer_type": mixer, "recurrent_size": 8}
    data = data_of(saved_predictor(BlendEncoderForSequenceClassification, tmp_path, **options), {"text": "abc"})
    assert data["attention"] == [] and data["answer"]["rollout"] is None
    assert len(data["answer"]["labels"][0]["gradient"]) == 5
    assert data["notes"] == [f"{mixer.upper()} layers read step by step and have no self-attention to show."]
    assert f"× {mixer.upper()}" in data["about"]


def test_every_task_is_explored_or_refused(model_of):  # noqa: F811
    assert SHAPES.keys() <= TASKS.keys()
    predictor = Predictor(model_of(CLASSIFY))
    predictor.rows.task = type("Other", (), {"name": "other"})
    with pytest.raises(InputError, match="models of other cannot be explored; those of sequence-classification"):
        predictor.explorer()
    predictor = Predictor(model_of(CLASSIFY))
    predictor.rows.model = object()
    with pytest.raises(InputError, match="is no single model of torch"):
        predictor.explorer()


def test_the_page_of_a_card_reads_as_much_as_prediction(tmp_path):
    """That is as much as in training."""
    predictor, row = saved_predictor(BlendEncoderForSequenceClassification, tmp_path), {"text": "abc cab " * 5}
    whole = data_of(predictor, row)
    (tmp_path / "all_results.json").write_text('{"max_length": 8}')
    cut = data_of(Predictor(tmp_path), row)
    assert load_explorer(read_saved(tmp_path), tmp_path.name).explore(row) == cut != whole


# --- The page ---


def test_nothing_in_a_text_ends_the_script(model_of):  # noqa: F811
    """A text, a label or a name may hold HTML."""
    predictor = Predictor(model_of(TAG))
    text = "</script><script>alert(1)</script> <!-- \u2028"
    data = data_of(predictor, {"text": text}) | {"model": "<b>&"}
    found = page(data)
    assert found.count("<script") == 2 and found.count("</script>") == 2
    (carried,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', found, re.DOTALL)
    assert json.loads(carried) == json.loads(json.dumps(data))
    assert "&lt;b&gt;&amp;" in found and "<b>&" not in found.replace(carried, "")


def test_the_page_asks_nobody(model_of):  # noqa: F811
    found = Predictor(model_of(CLASSIFY)).explore({"text": "abc"})
    assert "default-src 'none'" in found
    assert not re.search(r"https?://|\bsrc=|\bhref=|@import|url\(", found)
    assert found == Predictor(model_of(CLASSIFY)).explore({"text": "abc"})


def test_the_size_of_a_page(model_of):  # noqa: F811
    predictor = Predictor(model_of(CLASSIFY))
    sizes = [len(predictor.explore({"text": "abc" * 20}, size=size)) for size in (0, 20_000, 10**7)]
    assert sizes == sorted(sizes) and sizes[1] < sizes[0] + 20_000
    with pytest.raises(InputError, match="max_size: must be a number of bytes, got -1"):
        predictor.explore({"text": "abc"}, size=-1)


# --- The command ---


@pytest.mark.parametrize("name", CASES)
def test_the_command_writes_the_page(name, model_of, tmp_path, caplog):  # noqa: F811
    output = tmp_path / "page.html"
    assert main(["explore", str(model_of(name)), "--text", TEXTS[-1], "--output", str(output)]) == 0
    assert TEXTS[-1].split()[0][0] in output.read_text(encoding="utf-8")


def test_pairs_and_chats(model_of, tmp_path):  # noqa: F811
    output = tmp_path / "pair.html"
    assert main(["explore", str(model_of(CLASSIFY)), "--text", "a", "--text_pair", "서", "--output", str(output)]) == 0
    (carried,) = re.findall(r'id="data">(.*?)</script>', output.read_text(encoding="utf-8"), re.DOTALL)
    texts = [token["text"] for token in json.loads(carried)["answer"]["tokens"]]
    assert texts == ["[CLS]", "a", "[SEP]", "서", "[SEP]"]
    predictor = Predictor(model_of("causal-lm"))
    predictor.rows.settings.tokenizer.chat_template = "{% for each in messages %}{{ each['content'] }}{% endfor %}"
    data = data_of(predictor, {"messages": [{"role": "user", "content": "abc"}]})
    assert [token["text"] for token in data["attention"][0]["rows"]][:3] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_tokens", "1"], "max_tokens: must be 2 or more, got 1"),
        (["--max_size", "-1"], "max_size: must be a number of megabytes, 0 or more, got -1.0"),
        (["--max_size", "nan"], "max_size: must be a number of megabytes, 0 or more, got nan"),
        (["--text_pair", "b"], "text_pair: token-classification reads one text"),
        (["--output", "there.html"], "output: there.html exists already"),
        (["--output", "no/where.html"], "does not exist"),
        (["--max_new_tokens", "3"], "max_new_tokens: is for models that generate"),
        (["--words", "letters"], "words: unknown value 'letters'"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_a_wrong_option_is_named_and_nothing_is_written(arguments, message, model_of, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").write_text("mine")
    assert main(["explore", str(model_of(TAG)), "--text", "a", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


def test_a_model_that_cannot_be_loaded_is_named(tmp_path, capsys):
    assert main(["explore", str(tmp_path / "none"), "--text", "a", "--output", str(tmp_path / "a.html")]) == 2
    assert "none" in capsys.readouterr().err


def test_recordings_do_not_mix(model_of):  # noqa: F811
    """A second row is explored as if it were the first."""
    predictor = Predictor(model_of(CLASSIFY))
    explorer = predictor.explorer()
    first = explorer.explore({"text": "abc"})
    explorer.explore({"text": "서울 abc"})
    assert explorer.explore({"text": "abc"}) == first
    assert Recording().of(ENCODER) == []
