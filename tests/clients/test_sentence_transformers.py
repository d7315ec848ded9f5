"""sentence-transformers: our encoder embeds, learns, is saved and opened; our sequence head scores pairs."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from client_trainers import PAIRS, arguments_of, losses
from conftest import tiny_config
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling

from seqblend import BlendEncoderConfig, BlendEncoderForMaskedLM
from seqblend.tokenization.training import train_tokenizer

TEXTS = PAIRS["anchor"] + PAIRS["positive"]
# How a model is trained: by which trainer, arguments and loss.
EMBEDDING = (SentenceTransformerTrainer, SentenceTransformerTrainingArguments, MultipleNegativesRankingLoss)
SCORING = (CrossEncoderTrainer, CrossEncoderTrainingArguments, BinaryCrossEntropyLoss)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory as a run of ours leaves it: model, code and tokenizer."""
    tokenizer = train_tokenizer(TEXTS, "char", 99)
    tokenizer.model_max_length = 32
    config = tiny_config(BlendEncoderConfig, vocab_size=len(tokenizer), initializer_range=0.1)
    BlendEncoderForMaskedLM(config).save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def losses_of_training(model, trainer_class, arguments_class, loss_class, rows: dict[str, list], path: Path) -> list:
    """Train the model on all rows, fifteen times; the loss of each step."""
    trainer = trainer_class(
        model=model,
        args=arguments_of(arguments_class, path, num_train_epochs=15, per_device_train_batch_size=6),
        train_dataset=datasets.Dataset.from_dict(rows),
        loss=loss_class(model),
    )
    trainer.train()
    return losses(trainer)


def embedder(saved: Path, pooling: str) -> SentenceTransformer:
    transformer = Transformer(str(saved))
    return SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)], device="cpu"
    )


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_batch_is_embedded_as_its_texts_one_by_one(saved, pooling):
    model = embedder(saved, pooling)
    together = model.encode(TEXTS, batch_size=len(TEXTS))
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    assert together.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(together, alone, atol=1e-5 * together.std())


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_learns_and_is_saved_and_opened(saved, pooling, tmp_path):
    model = embedder(saved, pooling)
    before = model.encode(TEXTS)
    trained = losses_of_training(model, *EMBEDDING, PAIRS, tmp_path / "run")
    assert trained[-1] < 0.5 * trained[0]
    after = model.encode(TEXTS)
    assert np.abs(after - before).max() > 0.1
    model.save(str(tmp_path / "again"))
    assert (tmp_path / "again" / "modeling_encoder.py").exists()
    np.testing.assert_array_equal(SentenceTransformer(str(tmp_path / "again"), device="cpu").encode(TEXTS), after)


def test_pairs_are_scored_by_the_sequence_head(saved, tmp_path):
    model = CrossEncoder(str(saved), device="cpu", num_labels=1)
    assert type(model.model).__name__ == "BlendEncoderForSequenceClassification"
    rows = {
        "anchor": PAIRS["anchor"] * 2,
        "other": PAIRS["positive"] + PAIRS["positive"][1:] + PAIRS["positive"][:1],
        "label": [1.0] * 6 + [0.0] * 6,
    }
    trained = losses_of_training(model, *SCORING, rows, tmp_path / "run")
    assert np.mean(trained[-3:]) < np.mean(trained[:3])
    pairs = list(zip(rows["anchor"], rows["other"], strict=True))
    scores = model.predict(pairs)
    alone = np.concatenate([model.predict([pair]) for pair in pairs])
    np.testing.assert_allclose(scores, alone, atol=1e-5)
    model.save_pretrained(str(tmp_path / "again"))
    np.testing.assert_array_equal(CrossEncoder(str(tmp_path / "again"), device="cpu").predict(pairs), scores)
