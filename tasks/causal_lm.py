"""Causal language models: predict the next token, in one stream of texts, in documents, or in answers only."""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import (
    AutoModelForCausalLM,
    BatchEncoding,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data.columns import Schema
from ..data.errors import InputError, RowError
from ..data.kinds import CONVERSATION, QUESTION, TEXT
from ..data.streams import RowStream
from ..tokenization.shortening import token_ids_of
from .base import Positions, Task, Written, generate, mean_probabilities, row_slices, written_answers
from .conversations import check_chat_tokenizer, check_conversations, encode_conversations, has_answer, render
from .corruption import IGNORE
from .encoding import Answer, Row, Rows, Settings, count_tokens, fill, leading_special_tokens, tokenize

logger = logging.getLogger(__name__)


# The number of rows in which `end_tokens` looks.
ROWS = 100
# The most tokens that a chat model writes by default, as in the pipelines of transformers.
ANSWER_LENGTH = 256


class CausalLM(Task):
    """Predict each token of a text from those before it, or each token of the answers in a conversation."""

    name = "causal-lm"
    auto_class = AutoModelForCausalLM
    architecture = "decoder"
    inputs = text_columns = ("text", "messages")
    reference = "text"
    options = ("pack_documents", "messages_column", "chat_template")
    adds_special_tokens = False
    truncation_side = padding_side = "left"
    generation = {"max_new_tokens": 64}

    def make_schema(self, problem_type: str | None) -> Schema:
        """A text, or the messages of a conversation."""
        return Schema(
            {"text": TEXT, "messages": CONVERSATION},
            prediction_kinds={"messages": QUESTION},
            alternatives=("text", "messages"),
        )

    def check(self, rows: datasets.Dataset, settings: Settings, split: str) -> None:
        """Raises InputError for conversations and a tokenizer that is slow or has no chat template."""
        if "messages" in rows.column_names:
            check_chat_tokenizer(settings.tokenizer)

    def encode(self, batch: Rows, settings: Settings) -> Rows:
        """Texts as documents, each with an end token, and before it the tokenizer's own special token, if it has one.

        Conversations become sequences of `encode_conversations`.
        """
        tokenizer = settings.tokenizer
        if "messages" in batch:
            encoded = encode_conversations(tokenizer, batch["messages"], settings.max_length)
            encoded.pop("ends")
            return encoded
        leading, end = leading_special_tokens(tokenizer), tokenizer.eos_token_id
        return {"input_ids": [[*leading, *ids, end] for ids in token_ids_of(tokenizer, batch["text"])]}

    def regroup(self, documents: Iterator[pa.Table], settings: Settings) -> Iterator[pa.RecordBatch]:
        """Rows of whole documents or conversations, or blocks of one stream; a row may continue in the next table.

        Conversations are always packed. Those without a label are left out.
        """
        first = next(documents, None)
        if first is None:
            return
        documents, max_length = chain([first], documents), settings.max_length
        if "labels" in first.column_names:
            with_answer = (table.filter(pa.array(has_answer(table))) for table in documents)
            yield from pack_documents(((table["input_ids"], table["labels"]) for table in with_answer), max_length)
        elif settings.pack_documents:
            yield from pack_documents(((table["input_ids"], table["input_ids"]) for table in documents), max_length)
        else:
            yield from cut_stream((table["input_ids"] for table in documents), max_length)

    def check_documents(self, documents: datasets.Dataset, settings: Settings, split: str) -> None:
        """Warn about documents longer than a row, and prompts whose tokens differ from those in the conversation.

        Raises:
            InputError: there is no token to predict from another.
        """
        source = settings.source_of(split)
        if "labels" in documents.column_names:
            check_conversations(documents, source, settings.max_length)
            return
        lengths = count_tokens(documents, ("input_ids",))
        if not settings.pack_documents:
            if lengths.sum() < 2:
                raise InputError(
                    f"{source}: the texts have {lengths.sum()} tokens, too few to predict one from another"
                )
            return
        if lengths.max() < 2:
            raise InputError(f"{source}: no text has a token to predict another from")
        long = lengths[lengths > settings.max_length]
        if len(long):
            message = "%s: %d of %d documents are longer than max_length=%d and are cut into %d pieces"
            pieces = -(-long // settings.max_length)
            logger.warning(message, source, len(long), len(lengths), settings.max_length, pieces.sum())

    def make_collator(self, settings: Settings) -> Callable[[list[Row]], dict[str, torch.Tensor]]:
        """Pads rows, or concatenates rows of packed documents."""
        return CausalCollator(settings.tokenizer)

    def end_tokens(self, rows: datasets.Dataset | RowStream, settings: Settings) -> list[int]:
        """The tokens with which the chat template ends answers, in the first rows."""
        if "messages" not in rows.column_names:
            return []
        first = (rows.head if isinstance(rows, RowStream) else rows)[:ROWS]
        encoded = encode_conversations(settings.tokenizer, first["messages"], settings.max_length)
        return sorted({*chain.from_iterable(encoded["ends"])})

    def default_generation(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """The number of tokens to generate; larger for a chat model, which ends its answers by itself."""
        return self.generation if tokenizer.chat_template is None else {"max_new_tokens": ANSWER_LENGTH}

    def read_rows(self, rows: list[Row], settings: Settings) -> BatchEncoding:
        """Prompts, without an end token, which would end the text; of messages, the prompt for the next answer.

        Raises:
            InputError: the tokenizer cannot read messages.
            RowError: the chat template fails for the messages of a row.
        """
        tokenizer, texts = settings.tokenizer, []
        for index, row in enumerate(rows):
            if "messages" in row:
                check_chat_tokenizer(tokenizer)
            try:
                texts.append(prompt_of(row, tokenizer))
            except ValueError as error:
                raise RowError(index, str(error)) from error
        # A chat template writes the first token itself.
        adds_tokens = "messages" not in rows[0] and bool(leading_special_tokens(tokenizer))
        return tokenize(settings, texts, add_special_tokens=adds_tokens)

    def run_model(
        self,
        model: PreTrainedModel,
        inputs: BatchEncoding,
        positions: Positions,
        settings: Settings,
        generation: dict[str, Any],
    ) -> list[Written]:
        """The generated tokens after each prompt, and the geometric mean of their probabilities."""
        sequences, inputs = generate(model, inputs, generation)
        generated = sequences[:, inputs["input_ids"].shape[1] :]
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(generated)], dim=1)
        # One more than was generated: each token is predicted at the position before it.
        keep, scores = generated.shape[1] + 1, []
        for rows in row_slices(len(sequences), keep * model.config.vocab_size):
            outputs = model(sequences[rows], attention_mask=mask[rows], use_cache=False, logits_to_keep=keep)
            scores += mean_probabilities(outputs.logits[:, :-1], generated[rows], model.generation_config.eos_token_id)
        return list(zip(generated.tolist(), scores, strict=True))

    def to_answers(
        self, outputs: list[Written | list[Written]], document: list[int], rows: list[Row], settings: Settings
    ) -> list[Answer]:
        """The generated text, without the prompt, and its score."""
        return written_answers(outputs, settings.tokenizer)

    def answer_options(self, problem_type: str | None) -> tuple[str, ...]:
        """The number of texts."""
        return ("num_answers",)


def prompt_of(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that is continued: the row's, or that of its messages. Raises ValueError if the chat template fails."""
    return row["text"] if "messages" not in row else render(tokenizer, row["messages"], add_generation_prompt=True)


class CausalCollator:
    """Pads rows. Rows of packed documents, which have position_ids, are concatenated to one row instead."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.pad = DataCollatorForTokenClassification(tokenizer)

    def __call__(self, features: list[Row]) -> dict[str, torch.Tensor]:
        """Make a batch (B, T) of rows; with position_ids it is (1, N), without an attention_mask."""
        if "position_ids" not in features[0]:
            return self.pad(features)
        return {name: torch.tensor([list(chain.from_iterable(row[name] for row in features))]) for name in features[0]}


# --- From documents to rows ---


def cut_stream(documents: Iterable[pa.ListArray], max_length: int) -> Iterator[pa.RecordBatch]:
    """Join all documents to one stream and cut it into blocks of max_length tokens; the last one may be shorter.

    Args:
        documents: token ids, some documents at a time.
        max_length: length of a block.

    Returns:
        Batches, which may have no row.
    """
    rest = np.empty(0, dtype=np.int32)
    for part in documents:
        stream = np.concatenate([rest, pc.list_flatten(part).to_numpy()])
        whole = len(stream) // max_length * max_length
        yield blocks_of(stream[:whole], max_length)
        rest = stream[whole:]
    yield blocks_of(rest, max_length)


def blocks_of(stream: np.ndarray, max_length: int) -> pa.RecordBatch:
    """Token ids (N,) as rows of max_length."""
    starts = range(0, len(stream), max_length)
    return rows_of([*starts, len(stream)], input_ids=stream, labels=stream)


def pack_documents(
    documents: Iterable[tuple[pa.ListArray, pa.ListArray]], max_length: int
) -> Iterator[pa.RecordBatch]:
    """Pack documents, in their order, into rows of at most max_length tokens.

    position_ids restart with each document, which tells the model where documents begin. The first token of a document
    has no label: there is no token to predict it from. A longer document is cut into pieces, which are separate, too.

    Args:
        documents: token ids and labels, some documents at a time.
        max_length: maximum length of a row.

    Returns:
        At least one batch, which may have no row.
    """
    tokens = labels = np.empty(0, dtype=np.int32)
    lengths = np.empty(0, dtype=np.int64)
    for part, part_labels in documents:
        if not len(part):
            continue
        tokens = np.concatenate([tokens, pc.list_flatten(part).to_numpy()])
        labels = np.concatenate([labels, pc.list_flatten(part_labels).to_numpy()])
        lengths = np.concatenate([lengths, lengths_of_pieces(pc.list_value_length(part).to_numpy(), max_length)])
        # The last row may have room for the next documents.
        last = fill(lengths.cumsum(), max_length)[-1]
        size = lengths[:last].sum()
        if last:
            yield packed(tokens[:size], labels[:size], lengths[:last], max_length)
        tokens, labels, lengths = tokens[size:], labels[size:], lengths[last:]
    yield packed(tokens, labels, lengths, max_length)


def lengths_of_pieces(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """The lengths of the pieces of documents of these lengths; every document has at least one token."""
    counts = -(-lengths // max_length)
    pieces = np.full(counts.sum(), max_length)
    pieces[counts.cumsum() - 1] = lengths - (counts - 1) * max_length
    return pieces


def packed(tokens: np.ndarray, labels: np.ndarray, lengths: np.ndarray, max_length: int) -> pa.RecordBatch:
    """Rows with as many pieces as fit; `tokens` and `labels` (N,) hold one piece after the other, of these lengths."""
    starts = lengths.cumsum() - lengths
    positions = np.arange(len(tokens)) - starts.repeat(lengths)
    labels = np.where(positions == 0, IGNORE, labels)
    bounds = [*starts[fill(lengths.cumsum(), max_length)], len(tokens)]
    return rows_of(bounds, input_ids=tokens, position_ids=positions, labels=labels)


def rows_of(bounds: list[int], **columns: np.ndarray) -> pa.RecordBatch:
    """Rows of the columns (N,), each from one bound to the next."""
    offsets = pa.array(bounds, pa.int32())
    return pa.record_batch(
        {name: pa.ListArray.from_arrays(offsets, pa.array(values, pa.int32())) for name, values in columns.items()}
    )
