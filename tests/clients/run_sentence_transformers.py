"""Sentence embeddings and scores of pairs from an encoder of ours, where the package is not installed.

    python tests/clients/run_sentence_transformers.py ENCODER DATA WORK

ENCODER is a saved encoder (run_mlm, of run_examples.py), DATA the directory of clinc150. Prints what it measured.
"""

import itertools
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import PrinterCallback

REMOTE = {"trust_remote_code": True}


def texts_by_intent(path: Path) -> dict[str, list[str]]:
    rows = sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda row: row["label"])
    groups = itertools.groupby(rows, key=lambda row: row["label"])
    return {intent: [row["text"] for row in group] for intent, group in groups}


def nearest_is_of_same_intent(model: SentenceTransformer, intents: dict[str, list[str]]) -> float:
    """Of two texts of each intent, how often the nearest of all second ones to a first one is its own."""
    first, second = (model.encode([texts[i] for texts in intents.values()], normalize_embeddings=True) for i in (0, 1))
    return float(((first @ second.T).argmax(1) == np.arange(len(first))).mean())


def main() -> None:
    if find_spec("seqblend"):
        sys.exit("seqblend is installed: the saved code would not be opened")
    encoder, data, work = map(Path, sys.argv[1:])
    intents, held_out = (texts_by_intent(data / f"{split}.jsonl") for split in ("train", "validation"))
    for pooling in ("mean", "cls"):
        transformer = Transformer(
            str(encoder), model_kwargs=dict(REMOTE), config_kwargs=dict(REMOTE), processor_kwargs=dict(REMOTE)
        )
        head = Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)
        model = SentenceTransformer(modules=[transformer, head], device="cpu")
        before = nearest_is_of_same_intent(model, held_out)
        pairs = [pair for texts in intents.values() for pair in itertools.pairwise(texts[:40])]
        rows = datasets.Dataset.from_list([{"anchor": a, "positive": b} for a, b in pairs])
        arguments = SentenceTransformerTrainingArguments(
            str(work / pooling), max_steps=200, per_device_train_batch_size=32, learning_rate=1e-3, logging_steps=20,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        loss = MultipleNegativesRankingLoss(model)
        trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        model.save(str(work / f"saved_{pooling}"))
        again = SentenceTransformer(str(work / f"saved_{pooling}"), trust_remote_code=True, device="cpu")
        texts = [texts[0] for texts in held_out.values()]
        alone = np.concatenate([again.encode([text]) for text in texts[:32]])
        print(
            f"{pooling}: loss {losses[0]:.3f} to {losses[-1]:.3f}; nearest of {len(held_out)} is of the same intent: "
            f"{before:.3f} before, {nearest_is_of_same_intent(model, held_out):.3f} after; largest difference when "
            f"opened again {np.abs(model.encode(texts) - again.encode(texts)).max():.1e}, one by one "
            f"{np.abs(again.encode(texts[:32]) - alone).max():.1e}"
        )
    scorer = CrossEncoder(str(encoder), num_labels=1, trust_remote_code=True, device="cpu")
    scorer.save_pretrained(str(work / "scorer"))
    again = CrossEncoder(str(work / "scorer"), trust_remote_code=True, device="cpu")
    pairs = [(texts[0], texts[1]) for texts in held_out.values()]
    print(f"CrossEncoder of {type(again.model).__name__}: largest difference when opened again "
          f"{np.abs(scorer.predict(pairs) - again.predict(pairs)).max():.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
