"""Language models: what comes next, what was masked, what was cut out."""

import logging
from collections.abc import Iterator

import datasets
import pyarrow as pa

from ..data.errors import InputError
from .corruption import maskable_words, splits_words
from .documents import cut_stream, pack_documents
from .encoding import Encoder, Rows, Settings, count_tokens, tokenize
from .shortening import token_ids_of

logger = logging.getLogger(__name__)


# --- What comes next ---


def encode_causal(settings: Settings) -> Encoder:
    """Texts as documents, each closed by the end token."""
    tokenizer = settings.tokenizer

    def encode(batch: Rows) -> Rows:
        return {"input_ids": [[*ids, tokenizer.eos_token_id] for ids in token_ids_of(tokenizer, batch["text"])]}

    return encode


def regroup_documents(documents: Iterator[pa.ListArray], settings: Settings) -> Iterator[pa.RecordBatch]:
    """Rows of documents that are kept apart, or of one stream; a row may begin in one array and end in the next."""
    return (pack_documents if settings.pack_documents else cut_stream)(documents, settings.max_length)


def check_documents(documents: datasets.Dataset, settings: Settings, split: str) -> None:
    """Say how many documents are to be cut.

    Raises:
        InputError: there is nothing to predict one token from another.
    """
    where, lengths = settings.where.get(split, split), count_tokens(documents, ("input_ids",))
    if not settings.pack_documents:
        if lengths.sum() < 2:
            raise InputError(f"{where}: the texts have {lengths.sum()} tokens, too few to predict one from another")
        return
    if lengths.max() < 2:
        raise InputError(f"{where}: no text has a token to predict another from")
    long = lengths[lengths > settings.max_length]
    if len(long):
        message = "%s: %d of %d documents are longer than max_length=%d and are cut into %d pieces"
        pieces = -(-long // settings.max_length)
        logger.warning(message, where, len(long), len(lengths), settings.max_length, pieces.sum())


# --- What was masked ---


def check_masking(rows: datasets.Dataset, settings: Settings, split: str) -> None:
    """Raises InputError if the tokenizer has no mask token, or knows no words where they are to be masked whole."""
    tokenizer, whole = settings.tokenizer, settings.noise.whole_words
    if tokenizer.mask_token is None:
        raise InputError("tokenizer_name_or_path: the tokenizer has no mask token, which task masked-lm needs")
    if whole and not tokenizer.is_fast:
        raise InputError("mask_whole_words: the tokenizer is not a fast one, and does not tell words")
    if whole and not splits_words(tokenizer, rows["text"]):
        raise InputError("mask_whole_words: the tokenizer takes every text for one word")


def encode_masked(settings: Settings) -> Encoder:
    """Texts to be masked, and what their words are where those are masked whole."""
    special = set(settings.tokenizer.all_special_ids)

    def encode(batch: Rows) -> Rows:
        features = tokenize(settings, batch["text"])
        if not settings.noise.whole_words:
            return {**features}
        # An empty text may be an end token of ours, of which the encoding knows nothing.
        known = [features.word_ids(row) or None for row in range(len(features["input_ids"]))]
        words = [maskable_words(*row, special) for row in zip(features["input_ids"], known, strict=True)]
        return {**features, "word_ids": words}

    return encode


# --- What was cut out ---


def encode_noisy(settings: Settings) -> Encoder:
    """Texts out of which spans are to be cut."""
    noise = settings.noise

    def encode(batch: Rows) -> Rows:
        features = tokenize(settings, batch["text"], return_special_tokens_mask=True)
        sizes = [(len(mask), *noise.spans_of(mask.count(0))) for mask in features["special_tokens_mask"]]
        # Of source and target together, by which batches are made.
        return {**features, "length": [length + 2 * num_spans + 1 for length, _, num_spans in sizes]}

    return encode
