"""Affixes of words: as a plain loop finds them, the same in every form of a batch and in every way to ask a model."""

import json

import pytest
import torch
from conftest import HEADS, Spelling, assert_close, draw, every_kernel, flattened, named, output_of, padded, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from stock import stock_model
from test_train_command import TAG, files, plain_cards, quick_and_quiet, run  # noqa: F401
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from seqblend import Predictor, from_original, to_original
from seqblend.data.errors import InputError
from seqblend.modeling.encoder import AffixEmbedding, BlendEncoderConfig, BlendEncoderModel
from seqblend.modeling.encoder_decoder import BlendEncoderDecoderForSeq2SeqLM
from seqblend.tokenization.training import train_tokenizer
from seqblend.train import prepare

BUCKETS = 50
AFFIXES = {"affix_buckets": BUCKETS}
ENCODERS = [BlendEncoderModel, *(head for head in HEADS if head.config_class is BlendEncoderConfig)]
every_encoder = pytest.mark.parametrize("model_class", ENCODERS, ids=named)


def ids_by_hand(word):
    """The rows of the eight affixes of a word, letter by letter."""
    found = []
    for spelled in (word, word[::-1]):
        for size in range(1, 5):
            code = 0
            for letter in spelled[:size]:
                code = (code * 1_000_003 + ord(letter)) % (2**31 - 1)
            found.append(len(found) * BUCKETS + (code % BUCKETS if len(word) >= size else 0))
    return found


@pytest.fixture(scope="module")
def tokenizer():
    words = ["walking", "walked", "talk", "unwalkable", "naïve", "학교에서", "학생이", "가다", "x", "!", "1996"]
    return train_tokenizer(words * 3, "wordpiece", 60, exact=False)


@pytest.fixture(scope="module")
def embedding(tokenizer):
    found = AffixEmbedding(len(tokenizer), 8, BUCKETS)
    found.read_vocabulary(tokenizer)
    return found


@given(words=st.lists(st.sampled_from(["walkable", "unwalk", "talking", "naïve", "학교가", "가", "x", "1996", "!"])))
def test_as_a_plain_loop_finds_them(tokenizer, embedding, words):
    encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    ids = encoded.input_ids
    found = embedding.affix_ids(ids, embedding.begins_word[ids])
    # Of an unknown word, as of a special token, no letters are known.
    is_known = ids[0] != tokenizer.unk_token_id
    places = zip(encoded.word_ids(), is_known.tolist(), strict=True)
    expected = [ids_by_hand(words[index] if index is not None and known else "") for index, known in places]
    assert found.tolist() == [expected]
    by_hand = embedding.weight[ids] + embedding.affixes.weight[torch.tensor(expected)].sum(-2)
    assert torch.equal(embedding(ids), by_hand)


@every_kernel
@every_encoder
def test_the_same_in_every_form_of_a_batch(model_class, attention):
    """Tokens inside words that are the first of their sequence, and padding of any token, belong to no other word."""
    model, rows = tiny_model(model_class, attention, **AFFIXES), draw(model_class, [9, 1, 6], labels=False)
    alone = torch.cat([output_of(model, padded([row])) for row in rows])
    for batch in (padded(rows), padded(rows, "left", extra=2)):
        assert_close(output_of(model, batch), alone)
    if "SequenceClassification" not in model_class.__name__:
        assert_close(model(**flattened(rows))[0][0], alone)


def test_a_hook_changes_no_affixes():
    """Also of a flattened batch, whose second sequence begins inside a word."""
    model, rows = tiny_model(BlendEncoderModel, **AFFIXES), draw(BlendEncoderModel, [9, 1, 6], labels=False)
    expected = model(**flattened(rows))[0]
    model.get_input_embeddings().register_forward_hook(lambda *_: None)
    assert torch.equal(model(**flattened(rows))[0], expected)


def test_a_token_has_the_letters_of_all_tokens_of_its_word():
    embedding = tiny_model(BlendEncoderModel, **AFFIXES).get_input_embeddings()
    word, changed, longer = (torch.tensor([ids]) for ids in ([10, 11], [10, 13], [10, 11, 12]))
    assert embedding.begins_word[10:14].tolist() == [True, False, True, False]
    assert not torch.equal(embedding(word)[0, 0], embedding(changed)[0, 0])
    assert torch.equal(embedding(word)[0], embedding(longer)[0, :2])


def test_gradients_reach_the_affixes_of_the_batch_alone():
    model = tiny_model(BlendEncoderModel, **AFFIXES)
    embedding, ids = model.get_input_embeddings(), torch.tensor([[10, 11]])
    model(ids).last_hidden_state.square().sum().backward()
    rows = set(embedding.affix_ids(ids, embedding.begins_word[ids]).flatten().tolist())
    assert set(embedding.affixes.weight.grad.abs().sum(-1).nonzero().flatten().tolist()) == rows


def test_an_encoder_decoder_reads_them():
    options = {"encoder": AFFIXES, "share_encoder_decoder_embeddings": True}
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM, **options)
    rows = draw(BlendEncoderDecoderForSeq2SeqLM, [9, 4], labels=False)
    alone = torch.cat([output_of(model, padded([row])) for row in rows])
    assert_close(output_of(model, padded(rows)), alone)
    assert type(model.get_decoder().embed_tokens) is torch.nn.Embedding


def test_a_model_that_does_not_know_the_letters_is_refused():
    model = BlendEncoderModel(BlendEncoderConfig(vocab_size=99, hidden_size=8, num_attention_heads=2, **AFFIXES))
    with pytest.raises(ValueError, match="affix_buckets: the letters of the tokens are unknown; first call"):
        model(torch.tensor([[3]]))
    embedding = model.get_input_embeddings()
    with pytest.raises(ValueError, match="the tokenizer has 100 tokens, the model 99 embeddings"):
        embedding.read_vocabulary(Spelling(100))
    for other in ("char", "wordpiece"):  # exact, WordPiece does not mark tokens inside words
        with pytest.raises(ValueError, match="affix_buckets needs a WordPiece tokenizer"):
            embedding.read_vocabulary(train_tokenizer(["a word"], other, 40))
    embedding.read_vocabulary(train_tokenizer(["文", "字"], "wordpiece", 40, exact=False))


def test_new_tokens_need_letters(tmp_path):
    model = tiny_model(BlendEncoderModel, **AFFIXES)
    before = model(torch.tensor([[10, 11]]))[0]
    model.resize_token_embeddings(120, mean_resizing=False)
    with pytest.raises(IndexError):
        model(torch.tensor([[110]]))
    embedding = model.get_input_embeddings()
    embedding.read_vocabulary(Spelling(110))
    assert_close(model(torch.tensor([[10, 11]]))[0], before)
    model.save_pretrained(tmp_path)
    loaded = BlendEncoderModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert torch.equal(loaded(torch.tensor([[109, 115]]))[0], model(torch.tensor([[109, 115]]))[0])


@pytest.mark.parametrize("size", [110, 90])
def test_a_resized_vocabulary_is_saved(size, tmp_path):
    """New tokens that are not in the tokenizer, as for a multiple of 8, have no letters."""
    model = tiny_model(BlendEncoderModel, **AFFIXES)
    model.resize_token_embeddings(size, mean_resizing=False)
    model.save_pretrained(tmp_path)
    loaded = BlendEncoderModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    ids = torch.tensor([[10, 11, 80]])
    assert torch.equal(loaded(ids)[0], model(ids)[0])
    embedding = loaded.get_input_embeddings()
    assert not embedding.letters[:, 100:].any() and embedding.begins_word[100:].all()


def test_it_cannot_become_another_architecture(tmp_path):
    stock_model("bert", "AutoModel").save_pretrained(tmp_path / "bert")
    model = from_original(tmp_path / "bert")
    model.config.affix_buckets = BUCKETS
    with pytest.raises(ValueError, match="affix_buckets"):
        to_original(model, tmp_path / "out")


TAGGED = [
    {"tokens": ["walking", "walked", "unwalkable"], "tags": ["NOUN", "VERB", "ADJ"]},
    {"tokens": ["talking", "talked", "untalkable"], "tags": ["NOUN", "VERB", "ADJ"]},
] * 4


def test_trained_and_asked_in_every_way(tmp_path):
    """The Predictor, the pipeline of transformers and a plain forward give the same answer for new words."""
    out, data = tmp_path / "out", files(tmp_path, TAGGED)
    options = {"tokenizer_type": "wordpiece", "vocab_size": 60, "learning_rate": 1e-2, "num_train_epochs": 20}
    run(out, task=TAG, config_overrides="affix_buckets=64,hidden_size=32,num_attention_heads=2", **options, **data)
    predictions = [json.loads(line)["prediction"] for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert predictions == [row["tags"] for row in TAGGED]
    words = ["smoking", "smoked", "unsmokable"]
    predicted = Predictor(out)({"tokens": [words]})["prediction"]
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        labels = model(**encoded).logits[0].argmax(-1)
    firsts = [encoded.word_ids().index(index) for index in range(len(words))]
    assert [[model.config.id2label[label] for label in labels[firsts].tolist()]] == predicted
    found = pipeline("token-classification", model=str(out), aggregation_strategy="first")(" ".join(words))
    spread = [group["entity_group"] for group in found for _ in group["word"].split()]
    assert [spread] == predicted


@pytest.mark.parametrize("tokenizer_type", ["byte-bpe", "char", "unigram"])
def test_other_tokenizers_are_refused(tmp_path, tokenizer_type):
    argv = ["--task", TAG, "--output_dir", str(tmp_path / "out"), "--tokenizer_type", tokenizer_type]
    argv += ["--config_overrides", "affix_buckets=64"]
    for name, path in files(tmp_path, TAGGED).items():
        argv += [f"--{name}", str(path)]
    with pytest.raises(InputError, match="affix_buckets needs a WordPiece tokenizer"):
        prepare(argv)
