"""A converted sentence-transformers model beside the stock one: embeddings, speed, training, and back.

    python tests/clients/run_converted_embeddings.py MODEL DATA WORK

MODEL is a directory of sentence-transformers, such as all-MiniLM-L6-v2, and DATA the directory of python_docs_en_ko.
Prints what it measured. Both models get the same texts; their runs alternate. Times are medians of CPU seconds, with
one thread, so that other work on the machine does not count.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import PrinterCallback, TrainerCallback

from seqblend.conversion import convert

STEPS, BATCH, ROUNDS = 30, 32, 5
# What a process without the package prints: the largest difference of saved embeddings from a model's.
COMPARE = """
import sys
sys.modules["seqblend"] = None
import numpy as np
from sentence_transformers import SentenceTransformer
texts, expected = np.load(sys.argv[2])["texts"].tolist(), np.load(sys.argv[2])["embeddings"]
model = SentenceTransformer(sys.argv[1], device="cpu")
print(type(model[0].auto_model).__name__, f"{np.abs(model.encode(texts) - expected).max():.1e}")
"""


class StepTimes(TrainerCallback):
    """The seconds of each step, batches included."""

    def __init__(self):
        self.seconds, self.start = [], 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.process_time() - self.start)


def paragraphs(path: Path) -> list[str]:
    return [json.loads(line)["source"] for line in path.read_text(encoding="utf-8").splitlines()]


def nearest_is_next(model: SentenceTransformer, texts: list[str]) -> float:
    """How often the nearest of all following paragraphs is the next one."""
    first, second = (model.encode(part, normalize_embeddings=True) for part in (texts[:-1:2], texts[1::2]))
    return float(((first @ second.T).argmax(1) == np.arange(len(first))).mean())


def fill(model: SentenceTransformer, texts: list[str]) -> float:
    """The share of real tokens in padded batches of the texts, in their order."""
    real = places = 0
    for start in range(0, len(texts), BATCH):
        lengths = list(map(len, model.tokenizer(texts[start : start + BATCH], truncation=True)["input_ids"]))
        real, places = real + sum(lengths), places + len(lengths) * max(lengths)
    return real / places


def encode_seconds(model: SentenceTransformer, texts: list[str]) -> float:
    start = time.process_time()
    model.encode(texts, batch_size=BATCH)
    return time.process_time() - start


def train(model: SentenceTransformer, rows: datasets.Dataset, directory: Path) -> StepTimes:
    arguments = SentenceTransformerTrainingArguments(
        str(directory), max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=2e-5, logging_steps=10,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=0,
    )  # fmt: skip
    times = StepTimes()
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        loss=MultipleNegativesRankingLoss(model),
        callbacks=[times],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return times


def main() -> None:
    source, data, work = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    shutil.rmtree(work, ignore_errors=True)
    print(convert(source, work / "ours"), flush=True)
    texts, held_out = (paragraphs(data / f"{split}.jsonl") for split in ("train", "validation"))
    held_out = held_out[:512]
    models = {name: SentenceTransformer(str(path), device="cpu") for name, path in
              (("stock", source), ("ours", work / "ours"))}  # fmt: skip
    embeddings = [model.encode(held_out) for model in models.values()]
    print(f"largest difference of {len(held_out)} embeddings: {np.abs(embeddings[0] - embeddings[1]).max():.1e}")

    runs = {name: [] for name in models}
    for name in [*models] * ROUNDS:
        runs[name].append(encode_seconds(models[name], held_out))
    medians = {name: statistics.median(values) for name, values in runs.items()}
    by_length = fill(models["stock"], sorted(held_out, key=len, reverse=True))
    print(f"encode: {len(held_out)} texts, fill {by_length:.2f} (sorted by length): stock {medians['stock']:.2f} s, "
          f"ours {medians['ours']:.2f} s, ratio {medians['stock'] / medians['ours']:.2f}")  # fmt: skip

    rows = datasets.Dataset.from_dict({"anchor": texts[:-1:2], "positive": texts[1::2]}).shuffle(seed=0)
    before = nearest_is_next(models["stock"], held_out)
    steps, results = {}, {}
    for name, model in models.items():
        steps[name] = train(model, rows, work / f"{name}-run").seconds[1:]
        results[name] = nearest_is_next(model, held_out)
    ratios = [theirs / ours for theirs, ours in zip(steps["stock"], steps["ours"], strict=True)]
    print(f"train: fill {fill(models['stock'], rows['anchor'][: STEPS * BATCH]):.2f}, median step: "
          f"stock {statistics.median(steps['stock']):.2f} s, ours {statistics.median(steps['ours']):.2f} s, "
          f"median ratio of equal batches {statistics.median(ratios):.2f}")  # fmt: skip
    print(f"nearest of {len(held_out) // 2} is the next paragraph: {before:.3f} before, "
          f"{results['stock']:.3f} after {STEPS} steps of stock, {results['ours']:.3f} of ours")  # fmt: skip

    models["ours"].save_pretrained(str(work / "trained"))
    print(convert(work / "trained", work / "back"))
    np.savez(work / "embeddings.npz", texts=held_out, embeddings=models["ours"].encode(held_out))
    code = [sys.executable, "-c", COMPARE, work / "back", work / "embeddings.npz"]
    alone = subprocess.run(code, capture_output=True, text=True, check=True).stdout.split()
    print(f"back, opened without seqblend as {alone[0]}: largest difference of embeddings {alone[1]}")


if __name__ == "__main__":
    main()
