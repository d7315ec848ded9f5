"""A model of sentence-transformers is converted, computes the same without padding, learns, and is converted back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from client_trainers import PAIRS, arguments_of, losses
from conftest import WITHOUT_PACKAGE, calls_of
from safetensors.torch import load_file
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    SparseEncoder,
)
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
)

from seqblend import to_original
from seqblend.conversion import convert
from seqblend.tokenization.training import train_tokenizer

TEXTS = [*PAIRS["anchor"], *PAIRS["positive"], "ICE", "a long text " * 9]
PROMPTS = {"query": "the ", "document": ""}
# How a model is trained: by which trainer, arguments and loss.
EMBEDDING = (SentenceTransformerTrainer, SentenceTransformerTrainingArguments, MultipleNegativesRankingLoss)
SCORING = (CrossEncoderTrainer, CrossEncoderTrainingArguments, BinaryCrossEntropyLoss)
POOLINGS = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("mean", "cls")]


def save_bert(directory: Path, model_class: type = BertModel, **options) -> Path:
    """A stock BERT without dropout, with a tokenizer."""
    tokenizer = train_tokenizer(TEXTS, "char", 99)
    tokenizer.model_max_length = 24
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 48, "max_position_embeddings": 40, "initializer_range": 0.3}
    config = BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **options)
    model_class(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_gemma(directory: Path) -> Path:
    """A stock Gemma 3 without a causal mask, as EmbeddingGemma, with the tokenizer of save_bert."""
    config = AutoConfig.from_pretrained(save_bert(directory))
    sizes = {"vocab_size": config.vocab_size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 40}
    windows = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4, "initializer_range": 0.3}
    model = Gemma3TextModel(Gemma3TextConfig(**sizes, **windows, use_bidirectional_attention=True))
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.normal_(parameter)
    model.save_pretrained(directory)
    return directory


def save_embedder(directory: Path, pooling="mean", save_transformer=save_bert) -> SentenceTransformer:
    """A stock model with all kinds of modules, saved as sentence-transformers does today."""
    transformer = Transformer(str(save_transformer(directory.parent / "transformer")))
    pool = Pooling(32, pooling_mode=pooling, include_prompt=False)
    dense = Dense(pool.pooling_output_dimension, 16, activation_function=nn.Tanh())
    model = SentenceTransformer(modules=[transformer, pool, dense, Normalize()], prompts=PROMPTS, device="cpu")
    model.max_seq_length = 20
    model.save_pretrained(str(directory))
    return model


def age(directory: Path, folder: str = "") -> None:
    """Rewrite a saved model as old versions saved it."""
    modules = json.loads((directory / "modules.json").read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    modules[0]["path"] = folder
    (directory / "modules.json").write_text(json.dumps(modules))
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, "do_lower_case": True}))
    (directory / "config_sentence_transformers.json").write_text(json.dumps({"__version__": {}}))
    if folder:
        (directory / folder).mkdir()
        for path in directory.iterdir():
            if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
                path.rename(directory / folder / path.name)


def opened(directory: Path) -> SentenceTransformer:
    return SentenceTransformer(str(directory), device="cpu")


def encoded_elsewhere(directory: Path, class_name: str = "SentenceTransformer", texts=TEXTS) -> np.ndarray:
    """What a process in which seqblend cannot be imported gets for the texts."""
    call = "encode" if class_name == "SentenceTransformer" else "predict"
    code = WITHOUT_PACKAGE + (
        f"import json\nfrom sentence_transformers import {class_name}\n"
        f"model = {class_name}({str(directory)!r}, device='cpu')\n"
        f"print(json.dumps(model.{call}({texts!r}).tolist()))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return np.array(json.loads(printed.splitlines()[-1]), dtype=np.float32)


def train(model, rows=PAIRS, epochs: int = 5) -> list[float]:
    """Train on all rows at once; the loss of each step."""
    is_scorer = isinstance(model, CrossEncoder)
    trainer_class, arguments_class, loss_class = SCORING if is_scorer else EMBEDDING
    size = len(next(iter(rows.values())))
    trainer = trainer_class(
        model=model,
        args=arguments_of(arguments_class, Path("run"), num_train_epochs=epochs, per_device_train_batch_size=size),
        train_dataset=datasets.Dataset.from_dict(rows),
        loss=loss_class(model),
    )
    trainer.train()
    return losses(trainer)


@pytest.fixture(autouse=True)
def directory_of_trainers(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path, Path]:
    """Directories of the stock model, ours, and the one that comes back."""
    return tmp_path / "stock", tmp_path / "ours", tmp_path / "back"


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_embeddings_are_equal(pooling, places):
    """With prompts that are not pooled, and for texts that are cut off."""
    stock, (source, target, _) = save_embedder(places[0], pooling), places
    conversion = convert(source, target)
    assert conversion.class_name == "BlendEncoderModel" and not conversion.notes
    ours = opened(target)
    assert ours.max_seq_length == 20 and ours.prompts == PROMPTS
    for prompt in (None, "query"):
        np.testing.assert_allclose(
            ours.encode(TEXTS, prompt_name=prompt), stock.encode(TEXTS, prompt_name=prompt), atol=1e-6
        )


def test_padding_is_not_computed(places):
    """Neither in encode nor in training."""
    save_embedder(places[0])
    convert(*places[:2])
    model = opened(places[1])
    lengths = [len(ids) for ids in model.tokenizer(TEXTS, truncation=True)["input_ids"]]
    with calls_of(model[0].auto_model.layers[0].mlp) as calls:
        model.encode(TEXTS, batch_size=len(TEXTS))
        train(model, epochs=1)
    shapes = [tuple(call.args[0].shape) for call in calls]
    assert shapes[0] == (1, sum(lengths), 32) and sum(lengths) < max(lengths) * len(lengths)
    columns = [model.tokenizer(texts, truncation=True)["input_ids"] for texts in PAIRS.values()]
    assert shapes[1:] == [(1, sum(map(len, column)), 32) for column in columns]


@pytest.mark.parametrize("folder", ["", "0_Transformer"])
def test_a_model_of_an_old_version(folder, places):
    """Its longest text and its lower-casing are settings; its transformer may have a folder of its own."""
    save_embedder(places[0])
    age(places[0], folder)
    stock = opened(places[0])
    convert(*places[:2])
    ours = opened(places[1])
    assert stock.max_seq_length == ours.max_seq_length == 12
    np.testing.assert_allclose(ours.encode(TEXTS), stock.encode(TEXTS), atol=1e-6)
    convert(places[1], places[2])
    np.testing.assert_array_equal(opened(places[2]).encode(TEXTS), stock.encode(TEXTS))
    for name in ("1_Pooling/config.json", "2_Dense/model.safetensors", "config_sentence_transformers.json"):
        assert (places[2] / name).read_bytes() == (places[0] / name).read_bytes(), name
    settings = "sentence_bert_config.json"
    assert (places[2] / settings).read_bytes() == (places[0] / folder / settings).read_bytes()

    # Saved by the version of today, which writes neither setting: they come back with the original tokenizer.
    ours.save_pretrained(str(places[1].parent / "again"))
    shutil.rmtree(places[2])
    convert(places[1].parent / "again", places[2])
    np.testing.assert_array_equal(opened(places[2]).encode(TEXTS), stock.encode(TEXTS))


def test_an_encoder_with_the_name_of_a_decoder(places):
    """EmbeddingGemma has the model_type of Gemma 3."""
    stock = save_embedder(places[0], save_transformer=save_gemma)
    assert convert(*places[:2]).class_name == "BlendEncoderModel"
    convert(*places[1:])
    for place in places[1:]:
        np.testing.assert_allclose(opened(place).encode(TEXTS), stock.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("save_transformer", [save_bert, save_gemma])
def test_training_equals_that_of_stock(save_transformer, places):
    stock = save_embedder(places[0], save_transformer=save_transformer)
    convert(*places[:2])
    assert train(opened(places[1])) == pytest.approx(train(stock), rel=1e-3)


def test_a_trained_model_goes_back_as_it_was_trained(places, tmp_path):
    """Its dense module, its longest text, its prompts, and a pooling that was changed."""
    save_embedder(places[0])
    convert(*places[:2])
    model = opened(places[1])
    before = model.encode(TEXTS)
    trained = train(model, epochs=15)
    assert trained[-1] < 0.7 * trained[0]
    model.max_seq_length = 16
    model.prompts["query"] = "a "
    model[1].pooling_mode = "max"
    model.save_pretrained(str(tmp_path / "trained"))
    expected = model.encode(TEXTS)
    assert np.abs(expected - before).max() > 0.1
    np.testing.assert_array_equal(opened(tmp_path / "trained").encode(TEXTS), expected)

    conversion = convert(tmp_path / "trained", places[2])
    assert conversion.class_name == "BertModel" and not conversion.notes
    np.testing.assert_allclose(encoded_elsewhere(places[2]), expected, atol=1e-6)
    back = opened(places[2])
    assert type(back[0].auto_model) is BertModel and back.max_seq_length == 16 and back.prompts["query"] == "a "
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (places[2] / name).read_bytes() == (places[0] / name).read_bytes()
    # In Python, too.
    to_original(AutoModel.from_pretrained(tmp_path / "trained"), tmp_path / "python")
    np.testing.assert_array_equal(opened(tmp_path / "python").encode(TEXTS), back.encode(TEXTS))


def test_a_model_that_is_trained_without_the_package(places, tmp_path):
    """The code that is saved with it opens it, and does not save original_files/, which another model then gives."""
    stock = save_embedder(places[0])
    convert(*places[:2])
    code = WITHOUT_PACKAGE + (
        "from sentence_transformers import SentenceTransformer\n"
        f"model = SentenceTransformer({str(places[1])!r}, device='cpu', trust_remote_code=True)\n"
        f"model.save_pretrained({str(tmp_path / 'saved')!r})"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    with pytest.raises(ValueError, match="give --original_files"):
        convert(tmp_path / "saved", places[2])
    convert(tmp_path / "saved", places[2], original_files=places[1])
    np.testing.assert_array_equal(opened(places[2]).encode(TEXTS), stock.encode(TEXTS))


@pytest.mark.parametrize("model_class", [BertModel, BertForMaskedLM])
def test_a_model_that_was_not_one_of_sentence_transformers(model_class, tmp_path, places):
    """A plain BERT, converted and trained in a SentenceTransformer, is converted back to one."""
    convert(save_bert(places[0], model_class), places[1], head="base")
    transformer = Transformer(str(places[1]))
    model = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode="cls")], device="cpu")
    model.max_seq_length = 9
    train(model, epochs=2)
    model.save_pretrained(str(tmp_path / "trained"))
    convert(tmp_path / "trained", places[2])
    back = opened(places[2])
    assert back.max_seq_length == 9 and back[1].pooling_mode == "cls"
    np.testing.assert_allclose(back.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


CROSS_PAIRS = {
    "anchor": PAIRS["anchor"] * 2,
    "other": PAIRS["positive"] + PAIRS["positive"][1:] + PAIRS["positive"][:1],
    "label": [1.0] * 6 + [0.0] * 6,
}
IDENTITY = "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize("key", [None, "sbert_ce_default_activation_function", "sentence_transformers"])
def test_a_cross_encoder(key, tmp_path, places):
    """Its activation is in config.json, under one of two keys, or is the default."""
    value = {"activation_fn": IDENTITY} if key == "sentence_transformers" else IDENTITY
    save_bert(places[0], BertForSequenceClassification, num_labels=1, **({key: value} if key else {}))
    stock = CrossEncoder(str(places[0]), device="cpu")
    pairs = list(zip(CROSS_PAIRS["anchor"], CROSS_PAIRS["other"], strict=True))
    scores = stock.predict(pairs)
    assert (scores.min() < 0) == (key is not None)
    assert convert(*places[:2]).class_name == "BlendEncoderForSequenceClassification"
    ours = CrossEncoder(str(places[1]), device="cpu")
    np.testing.assert_allclose(ours.predict(pairs), scores, atol=1e-5)
    trained = train(ours, CROSS_PAIRS)
    assert trained[-1] < trained[0]
    ours.save_pretrained(str(tmp_path / "trained"))
    assert convert(tmp_path / "trained", places[2]).class_name == "BertForSequenceClassification"
    expected = ours.predict(pairs)
    np.testing.assert_allclose(CrossEncoder(str(places[2]), device="cpu").predict(pairs), expected, atol=1e-5)
    if key == "sentence_transformers":
        np.testing.assert_allclose(encoded_elsewhere(places[2], "CrossEncoder", pairs), expected, atol=1e-5)


def test_a_sparse_encoder(places):
    """Its transformer is a masked language model."""
    model = SparseEncoder(str(save_bert(places[0].parent / "bert", BertForMaskedLM)), device="cpu")
    model.save_pretrained(str(places[0]))
    assert convert(*places[:2]).class_name == "BlendEncoderForMaskedLM"
    convert(places[1], places[2])
    expected = model.encode(TEXTS).to_dense()
    for place in places[1:]:
        actual = SparseEncoder(str(place), device="cpu").encode(TEXTS).to_dense()
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_a_module_with_code_of_its_own_is_named(places):
    """The model is converted, but is none of sentence-transformers."""
    save_embedder(places[0])
    modules = json.loads((places[0] / "modules.json").read_text())
    modules[2]["type"] = "my_modules.Dense"
    (places[0] / "modules.json").write_text(json.dumps(modules))
    conversion = convert(*places[:2])
    assert conversion.notes == [
        "sentence-transformers cannot open it, because its module my_modules.Dense is not preserved"
    ]
    assert not (places[1] / "modules.json").exists()


@pytest.mark.parametrize("head", [None, "base"])
def test_an_embedder_whose_configuration_names_a_language_model(head, places):
    """As that of all-mpnet-base-v2 does: sentence-transformers loads the base model."""
    stock = save_embedder(places[0])
    config = json.loads((places[0] / "config.json").read_text())
    (places[0] / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    conversion = convert(*places[:2], head=head)
    assert conversion.class_name == "BlendEncoderModel" and not conversion.report.initialized
    convert(*places[1:])
    for place in places[1:]:
        np.testing.assert_allclose(opened(place).encode(TEXTS), stock.encode(TEXTS), atol=1e-6)


def test_another_head_is_no_embedder(places):
    """A classifier made of it has no modules beside it."""
    save_embedder(places[0])
    convert(*places[:2], head="sequence-classification")
    assert not (places[1] / "modules.json").exists()
    assert load_file(places[1] / "original_files" / "file-2_Dense--model.safetensors")
