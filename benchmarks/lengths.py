"""The batches of a benchmark: their row lengths come from real texts, their tokens are random."""

import datetime
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import BertWordPieceTokenizer
from torch.nn.utils.rnn import pad_sequence

from ..data.dates import LANGUAGES, STYLES, date_row

# Token counts of a row: of its text, or of source and target.
Lengths = tuple[int, ...]
# The lengths of the rows of each batch.
BatchLengths = list[list[Lengths]]
# Tensors of a row by name: one dimension for values per token, no dimension for values per row.
Row = dict[str, torch.Tensor]
Batch = dict[str, torch.Tensor]

NATURAL_FILL = (0.35, 0.45)
# Candidates for the maximum length, to which texts are cut as in training: the first with enough natural fills.
MAX_LENGTHS = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16)
NUM_DRAWS = 500
NUM_PROMPTS = 32
NUM_DATES = 5000


class Corpus(NamedTuple):
    """Row lengths of a dataset, and a name with their unit."""

    name: str
    rows: list[Lengths]


def load_corpora(directory: Path | None) -> dict[str, Corpus]:
    """Row lengths of `texts` and `pairs`, from a directory of datasets or, if None, from calendar dates.

    Raises:
        FileNotFoundError: the directory does not contain the two datasets.
    """
    if directory is None:
        pairs = date_pairs()
        name = "calendar dates in fifty languages, in UTF-8 bytes"
        return {"texts": Corpus(name, [row[:1] for row in pairs]), "pairs": Corpus(f"{name}, two a row", pairs)}
    sentences = read_json_lines(directory / "ud_en_ewt" / "train.jsonl")
    documents = read_json_lines(directory / "python_docs_en_ko" / "train.jsonl")
    texts, unit = count_tokens([" ".join(row["tokens"]) for row in sentences], directory, "bert-base-uncased")
    sources, _ = count_tokens([row["source"] for row in documents], directory, "bert-base-uncased")
    targets, _ = count_tokens([row["target"] for row in documents], directory, "koelectra-v1")
    return {
        "texts": Corpus(f"UD English EWT, in {unit}", [(length,) for length in texts]),
        "pairs": Corpus(
            f"Python's documentation in English and Korean, in {unit}", list(zip(sources, targets, strict=True))
        ),
    }


def date_pairs() -> list[Lengths]:
    """Byte lengths of random dates, each written in two random languages."""
    rng, first = random.Random(0), datetime.date(1900, 1, 1).toordinal()
    days = [datetime.date.fromordinal(first + rng.randrange(200 * 365)) for _ in range(NUM_DATES)]
    return [
        tuple(len(date_row(day, rng.choice(LANGUAGES), rng.choice(STYLES))["text"].encode()) for _ in range(2))
        for day in days
    ]


def read_json_lines(path: Path) -> list[dict]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def count_tokens(texts: list[str], directory: Path, tokenizer: str) -> tuple[list[int], str]:
    """Token count of each text, and the unit: WordPieces if the vocabulary is next to the data, else words."""
    vocabulary = directory.parent / "tokenizers" / tokenizer / "vocab.txt"
    if not vocabulary.exists():
        return [max(1, len(text.split())) for text in texts], "words"
    # Lowercasing also strips accents, which decomposes Hangul.
    wordpiece = BertWordPieceTokenizer(str(vocabulary), lowercase="uncased" in tokenizer)
    return [len(encoding) for encoding in wordpiece.encode_batch(texts)], "WordPieces"


def natural_batches(rows: list[Lengths], num_batches: int, batch_rows: int) -> BatchLengths:
    """Random batches with a natural fill: between the two values of NATURAL_FILL.

    Raises:
        ValueError: not enough such batches were drawn.
    """
    lowest, highest = NATURAL_FILL
    for max_length in MAX_LENGTHS:
        short = [tuple(min(length, max_length) for length in row) for row in rows]
        rng = random.Random(0)
        candidates = (rng.sample(short, batch_rows) for _ in range(NUM_DRAWS))
        natural = [batch for batch in candidates if lowest <= fill_ratio([batch]) <= highest]
        if len(natural) >= num_batches:
            return natural[:num_batches]
    raise ValueError(f"no batch of {batch_rows} rows has a fill from {lowest} to {highest}")


def natural_prompts(rows: list[Lengths], number: int) -> list[Lengths]:
    """The first prompts of a batch of NUM_PROMPTS with a natural fill."""
    return natural_batches(rows, 1, NUM_PROMPTS)[0][:number]


def full_batches(batches: BatchLengths) -> BatchLengths:
    """Batches without padding: as many rows, each with the mean length, so about as many tokens."""
    mean = max(1, round(num_tokens(batches) / sum(map(len, batches))))
    return [[(mean,)] * len(batch) for batch in batches]


def num_tokens(batches: BatchLengths) -> int:
    """Number of real tokens."""
    return sum(sum(row) for batch in batches for row in batch)


def fill_ratio(batches: BatchLengths) -> float:
    """Real tokens divided by all tokens of the padded batches."""
    padded = sum(len(batch) * sum(max(column) for column in zip(*batch, strict=True)) for batch in batches)
    return num_tokens(batches) / padded


def random_tokens(length: int, vocab_size: int) -> torch.Tensor:
    """Random token IDs (length) without special tokens."""
    return torch.randint(3, vocab_size, (length,))


def pad(rows: Sequence[Row], side: str = "right") -> Batch:
    """Pad the rows to a batch (B, T)."""
    batch = {}
    for name in rows[0]:
        column = [row[name] for row in rows]
        empty = -100 if name == "labels" else 0
        batch[name] = pad_sequence(column, True, empty, side) if column[0].dim() else torch.stack(column)
    ones = [torch.ones_like(row["input_ids"]) for row in rows]
    return batch | {"attention_mask": pad_sequence(ones, True, 0, side)}


def group_by_length(batches: list[list[Row]]) -> list[list[Row]]:
    """The same rows in as many batches, sorted by length."""
    rows = sorted((row for batch in batches for row in batch), key=lambda row: len(row["input_ids"]))
    size = len(batches[0])
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def flatten(rows: Sequence[Row]) -> Batch:
    """Concatenate the rows to one (1, N), with position_ids that restart at each row."""
    batch = {name: torch.cat([row[name] for row in rows])[None] for name in rows[0]}
    return batch | {"position_ids": torch.cat([torch.arange(len(row["input_ids"])) for row in rows])[None]}
