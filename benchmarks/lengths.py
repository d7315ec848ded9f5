"""The batches of a benchmark: how long their rows are comes from real texts, which tokens stand in them is random."""

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

# Tokens of a row: its only text, or source and target.
Lengths = tuple[int, ...]
# Those of the rows of each batch.
Drawn = list[list[Lengths]]
# A row's tensors by name: one dimension for what belongs to a token, none for what belongs to the row.
Row = dict[str, torch.Tensor]
Batch = dict[str, torch.Tensor]

NATURAL_FILL = (0.35, 0.45)
# Where longer texts are cut, as training does by its maximum length: the first at which such fills are met.
CUTS = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16)
DRAWS = 500
NUM_DATES = 5000


class Corpus(NamedTuple):
    """Lengths of the rows of a data set, and what they count."""

    name: str
    rows: list[Lengths]


def load_corpora(directory: Path | None) -> dict[str, Corpus]:
    """Lengths of `texts` and of `pairs`: those of a directory of data sets, or, without one, of calendar dates.

    Raises:
        FileNotFoundError: the directory has not the two data sets.
    """
    if directory is None:
        pairs = date_pairs()
        name = "calendar dates in fifty languages, in UTF-8 bytes"
        return {"texts": Corpus(name, [row[:1] for row in pairs]), "pairs": Corpus(f"{name}, two a row", pairs)}
    sentences = read(directory / "ud_en_ewt" / "train.jsonl")
    documents = read(directory / "python_docs_en_ko" / "train.jsonl")
    texts, unit = count([" ".join(row["tokens"]) for row in sentences], directory, "bert-base-uncased")
    sources, _ = count([row["source"] for row in documents], directory, "bert-base-uncased")
    targets, _ = count([row["target"] for row in documents], directory, "koelectra-v1")
    return {
        "texts": Corpus(f"UD English EWT, in {unit}", [(length,) for length in texts]),
        "pairs": Corpus(
            f"Python's documentation in English and Korean, in {unit}", list(zip(sources, targets, strict=True))
        ),
    }


def date_pairs() -> list[Lengths]:
    """Bytes of random dates as one language writes them, and as another does."""
    rng, first = random.Random(0), datetime.date(1900, 1, 1).toordinal()
    days = [datetime.date.fromordinal(first + rng.randrange(200 * 365)) for _ in range(NUM_DATES)]
    return [
        tuple(len(date_row(day, rng.choice(LANGUAGES), rng.choice(STYLES))["text"].encode()) for _ in range(2))
        for day in days
    ]


def read(path: Path) -> list[dict]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def count(texts: list[str], directory: Path, tokenizer: str) -> tuple[list[int], str]:
    """Tokens of each text, and their name: WordPieces where the vocabulary stands beside the data, else words."""
    vocabulary = directory.parent / "tokenizers" / tokenizer / "vocab.txt"
    if not vocabulary.exists():
        return [max(1, len(text.split())) for text in texts], "words"
    # Lower case goes with taking accents off, which takes Hangul apart.
    pieces = BertWordPieceTokenizer(str(vocabulary), lowercase="uncased" in tokenizer)
    return [len(encoding) for encoding in pieces.encode_batch(texts)], "WordPieces"


def natural_batches(rows: list[Lengths], num_batches: int, batch_rows: int) -> Drawn:
    """Random batches of which each has a natural fill.

    Raises:
        ValueError: no such batches were drawn.
    """
    lowest, highest = NATURAL_FILL
    for cut in CUTS:
        short = [tuple(min(length, cut) for length in row) for row in rows]
        rng = random.Random(0)
        drawn = (rng.sample(short, batch_rows) for _ in range(DRAWS))
        kept = [batch for batch in drawn if lowest <= fill([batch]) <= highest]
        if len(kept) >= num_batches:
            return kept[:num_batches]
    raise ValueError(f"no batch of {batch_rows} rows has a fill from {lowest} to {highest}")


def full_batches(batches: Drawn) -> Drawn:
    """As many rows and about as many tokens, without padding: each row has the mean length."""
    mean = max(1, round(num_tokens(batches) / sum(map(len, batches))))
    return [[(mean,)] * len(batch) for batch in batches]


def num_tokens(batches: Drawn) -> int:
    """Real tokens."""
    return sum(sum(row) for batch in batches for row in batch)


def fill(batches: Drawn) -> float:
    """Real tokens for each token of the padded batches."""
    padded = sum(len(batch) * sum(max(column) for column in zip(*batch, strict=True)) for batch in batches)
    return num_tokens(batches) / padded


def random_tokens(length: int, vocab_size: int) -> torch.Tensor:
    """Tokens (length) of which none is special."""
    return torch.randint(3, vocab_size, (length,))


def pad(rows: Sequence[Row], side: str = "right") -> Batch:
    """A batch [B, T] of rows."""
    batch = {}
    for name in rows[0]:
        column = [row[name] for row in rows]
        empty = -100 if name == "labels" else 0
        batch[name] = pad_sequence(column, True, empty, side) if column[0].dim() else torch.stack(column)
    ones = [torch.ones_like(row["input_ids"]) for row in rows]
    return batch | {"attention_mask": pad_sequence(ones, True, 0, side)}


def group_by_length(batches: list[list[Row]]) -> list[list[Row]]:
    """The same rows in as many batches, those of like lengths together."""
    rows = sorted((row for batch in batches for row in batch), key=lambda row: len(row["input_ids"]))
    size = len(batches[0])
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def flatten(rows: Sequence[Row]) -> Batch:
    """The rows as one [1, N], with positions that restart at each."""
    batch = {name: torch.cat([row[name] for row in rows])[None] for name in rows[0]}
    return batch | {"position_ids": torch.cat([torch.arange(len(row["input_ids"])) for row in rows])[None]}
