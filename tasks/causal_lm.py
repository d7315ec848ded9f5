"""Causal language models: predict the next token, in one stream of texts, in documents, or in answers only."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

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

from ..data.columns import ASSISTANT, CONVERSATION, QUESTION, TEXT, Schema
from ..data.errors import InputError, RowError, error_line
from ..data.streams import RowStream
from .base import Positions, Task, generate, mean_probabilities, row_slices
from .corruption import IGNORE
from .encoding import Answer, Row, Rows, Settings, count_tokens, fill, opening_tokens, tokenize
from .shortening import token_ids_of

logger = logging.getLogger(__name__)


Messages = list[dict[str, str]]
# The number of rows in which `end_tokens` looks.
ROWS = 100
# A content that no message has.
MARK = "\ue000"
# The number of sequences that are looked at together.
DOCUMENTS = 1000
# The number of characters on either side of a boundary that a warning shows.
SHOWN = 20
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
    conversations = "messages"
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
        """Texts as documents, each with an end token, and the tokenizer's own token before it, if it has one.

        Conversations as `encode_conversations`.
        """
        tokenizer = settings.tokenizer
        if "messages" in batch:
            encoded = encode_conversations(tokenizer, batch["messages"], settings.max_length)
            encoded.pop("ends")
            return encoded
        opening, end = opening_tokens(tokenizer), tokenizer.eos_token_id
        return {"input_ids": [[*opening, *ids, end] for ids in token_ids_of(tokenizer, batch["text"])]}

    def regroup(self, documents: Iterator[pa.Table], settings: Settings) -> Iterator[pa.RecordBatch]:
        """Rows of whole documents or conversations, or blocks of one stream; a row may continue in the next table."""
        return regroup_tables(documents, settings.max_length, settings.pack_documents)

    def check_documents(self, documents: datasets.Dataset, settings: Settings, split: str) -> None:
        """Warn about documents or conversations longer than a row, and about answers that are not asked for exactly.

        Raises:
            InputError: there is no token to predict from another.
        """
        where = settings.where.get(split, split)
        if "labels" in documents.column_names:
            check_conversations(documents, where, settings.max_length)
            return
        lengths = count_tokens(documents, ("input_ids",))
        if not settings.pack_documents:
            if lengths.sum() < 2:
                raise InputError(
                    f"{where}: the texts have {lengths.sum()} tokens, too few to predict one from another"
                )
            return
        if lengths.max() < 2:
            raise InputError(f"{where}: no text has a token to predict another from")
        long = lengths[lengths > settings.max_length]
        if len(long):
            message = "%s: %d of %d documents are longer than max_length=%d and are cut into %d pieces"
            pieces = -(-long // settings.max_length)
            logger.warning(message, where, len(long), len(lengths), settings.max_length, pieces.sum())

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
        """A number of tokens; a chat model ends by itself, so it has more."""
        return self.generation if tokenizer.chat_template is None else {"max_new_tokens": ANSWER_LENGTH}

    def read_rows(self, rows: list[Row], settings: Settings) -> BatchEncoding:
        """Prompts, without an end token: it would end the text; of messages, what asks for the next answer.

        Raises:
            InputError: the tokenizer cannot be asked with messages.
            RowError: the chat template refuses the messages of a row.
        """
        tokenizer, texts = settings.tokenizer, []
        for index, row in enumerate(rows):
            if "messages" not in row:
                texts.append(row["text"])
                continue
            check_chat_tokenizer(tokenizer)
            try:
                texts.append(render(tokenizer, row["messages"], add_generation_prompt=True))
            except ValueError as error:
                raise RowError(index, str(error)) from error
        # A chat template writes the first token itself.
        opens = "messages" not in rows[0] and bool(opening_tokens(tokenizer))
        return tokenize(settings, texts, add_special_tokens=opens)

    def run_model(
        self,
        model: PreTrainedModel,
        inputs: BatchEncoding,
        positions: Positions,
        settings: Settings,
        generation: dict[str, Any],
    ) -> list[tuple[list[int], float]]:
        """The generated tokens after each prompt, and the geometric mean of their probabilities."""
        sequences = generate(model, inputs, generation)
        generated = sequences[:, inputs["input_ids"].shape[1] :]
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(generated)], dim=1)
        # One more than was generated: each token is predicted at the position before it.
        keep, scores = generated.shape[1] + 1, []
        for rows in row_slices(len(sequences), keep * model.config.vocab_size):
            outputs = model(sequences[rows], attention_mask=mask[rows], use_cache=False, logits_to_keep=keep)
            scores += mean_probabilities(outputs.logits[:, :-1], generated[rows], model.generation_config.eos_token_id)
        return list(zip(generated.tolist(), scores, strict=True))

    def to_answers(
        self, outputs: list[tuple[list[int], float]], document: list[int], rows: list[Row], settings: Settings
    ) -> list[Answer]:
        """The generated text, without the prompt, and its score."""
        texts = settings.tokenizer.batch_decode([tokens for tokens, _ in outputs], skip_special_tokens=True)
        return [{"prediction": text, "score": score} for text, (_, score) in zip(texts, outputs, strict=True)]


class CausalCollator:
    """Pads rows. Rows of packed documents, which have position_ids, are concatenated to one row instead."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.pad = DataCollatorForTokenClassification(tokenizer)

    def __call__(self, features: list[Row]) -> dict[str, torch.Tensor]:
        """Make a batch (B, T) of rows; with position_ids it is (1, N), without an attention_mask."""
        if "position_ids" not in features[0]:
            return self.pad(features)
        return {name: torch.tensor([list(chain.from_iterable(row[name] for row in features))]) for name in features[0]}


# --- From conversations to documents ---


class AnswerSpan(NamedTuple):
    """Where an answer stands in a text, in characters.

    Args:
        start: its first character; the text before it is what asks for the answer.
        tail: the character after its content, where its end token is looked for.
        end: the character after all that the template writes for it.
    """

    start: int
    tail: int
    end: int


class Rendered(NamedTuple):
    """A text that the chat template makes of messages.

    Args:
        text: the whole text.
        answers: the answers to learn.
    """

    text: str
    answers: list[AnswerSpan]


def check_chat_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError for a tokenizer with which conversations cannot be read."""
    name = tokenizer.name_or_path or "the tokenizer of this run"
    if tokenizer.chat_template is None:
        raise InputError(f"chat_template: {name} has none, and messages need one; --chat_template FILE.jinja gives it")
    if not tokenizer.is_fast:
        raise InputError(f"tokenizer_name_or_path: {name} is a slow tokenizer, and messages need a fast one")


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, add_generation_prompt: bool = False) -> str:
    """The text that the chat template makes of messages. Raises ValueError if the template refuses them."""
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    except Exception as error:  # a template runs code of its own, which raises whatever it likes
        raise ValueError(f"the chat template does not take these messages ({error_line(error)})") from error


def render_answers(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[Rendered]:
    """The texts in which the answers of a conversation are learnt, each after exactly what prediction would read.

    Most templates only append to what they wrote of earlier messages: then all answers share one text. Where a
    template writes earlier messages in another way later (without their thoughts), a new text begins.

    Raises:
        ValueError: the template refuses the messages, its prompt is not how the answer begins, or it does not write
            the answer.
    """
    texts: list[Rendered] = []
    for index, message in enumerate(messages):
        if message["role"] != ASSISTANT:
            continue
        prompt = render(tokenizer, messages[:index], add_generation_prompt=True)
        text = render(tokenizer, messages[: index + 1])
        if not text.startswith(prompt):
            raise ValueError(
                f"message {index + 1}: the chat template asks with …{prompt[-SHOWN:]!r}, but the conversation with "
                "the answer does not begin so: what is learnt would not be what is asked"
            )
        other = render(tokenizer, [*messages[:index], {**message, "content": MARK}])
        if MARK not in other:
            raise ValueError(f"message {index + 1}: the chat template does not write its content")
        # What is written after any content; where the content ends is not known otherwise: a template may change it.
        after = other.rpartition(MARK)[2]
        tail = max(len(prompt), len(text.removesuffix(after)))
        continues = bool(texts) and prompt.startswith(texts[-1].text)
        before = texts.pop().answers if continues else []
        texts.append(Rendered(text, [*before, AnswerSpan(len(prompt), tail, len(text))]))
    return texts


def encode_conversations(tokenizer: PreTrainedTokenizerBase, conversations: list[Messages], max_length: int) -> Rows:
    """Encode conversations, each as one or several sequences; see `encode_rendered` for the columns.

    Raises:
        RowError: a conversation cannot be rendered, or an answer has no end.
    """
    rendered: list[tuple[int, Rendered]] = []
    for row, messages in enumerate(conversations):
        try:
            rendered += [(row, text) for text in render_answers(tokenizer, messages)]
        except ValueError as error:
            raise RowError(row, str(error)) from error
    options = {"add_special_tokens": False, "verbose": False}
    encoding = tokenizer([text for _, (text, _) in rendered], return_offsets_mapping=True, **options)
    prompts = [each.text[: answer.start] for _, each in rendered for answer in each.answers]
    prompt_ids = iter(tokenizer(prompts, **options)["input_ids"])
    added = {token for token, each in tokenizer.added_tokens_decoder.items() if each.content.strip()}
    added |= {*tokenizer.all_special_ids}
    sequences, last_row = [], None
    for (row, each), ids, offsets in zip(rendered, encoding["input_ids"], encoding["offset_mapping"], strict=True):
        try:
            sequence = encode_rendered(each, ids, offsets, [next(prompt_ids) for _ in each.answers], added)
        except ValueError as error:
            raise RowError(row, str(error)) from error
        sequence |= {"is_first": row != last_row, "excess": max(0, len(ids) - max_length)}
        sequence["lost"] = sum(end >= max_length for end in sequence.pop("last"))
        sequence["input_ids"], sequence["labels"] = ids[:max_length], sequence["labels"][:max_length]
        sequences.append(sequence)
        last_row = row
    return {name: [each[name] for each in sequences] for name in sequences[0]}


def encode_rendered(
    rendered: Rendered, ids: list[int], offsets: list[tuple[int, int]], prompts: list[list[int]], added: set[int]
) -> Row:
    """Encode a text, and compare the tokens before each answer with those that prediction would read.

    Args:
        rendered: the text and its answers.
        ids: of the tokens of the text (T,).
        offsets: start and end of each token in the text (T, 2).
        prompts: ids of the tokens of the text before each answer, tokenized alone.
        added: ids of added tokens.

    Returns:
        `labels` (T,), `answers` (their number), `ends` and `last` (id and index of the token that ends each answer)
        and `boundary` (the texts around a place where a prompt has other tokens, or nothing).

    Raises:
        ValueError: an answer has no end.
    """
    text, boundary, last = rendered.text, "", []
    labels = [IGNORE] * len(ids)
    starts = [start for start, _ in offsets]
    for answer, prompt in zip(rendered.answers, prompts, strict=True):
        is_same = ids[: len(prompt)] == prompt
        # Offsets leave it open to which side a token of white space belongs.
        first = len(prompt) if is_same else bisect_left(starts, answer.start)
        end_token = find_end(ids, starts, answer, text, added)
        before, after, written = text[: answer.start], text[answer.start :], text[answer.start : answer.end]
        if end_token is None:
            raise ValueError(
                f"the chat template ends an answer with {written[-SHOWN:]!r}, which is no token of its own: a model "
                "would not learn to stop; write {{ eos_token }} there, or add the token to the tokenizer"
            )
        labels[first : end_token + 1] = ids[first : end_token + 1]
        last.append(end_token)
        if not is_same:
            boundary = f"…{before[-SHOWN:]!r} and {after[:SHOWN]!r}…"
    ends = [ids[index] for index in last]
    return {"labels": labels, "answers": len(last), "ends": ends, "last": last, "boundary": boundary}


def find_end(ids: list[int], starts: list[int], answer: AnswerSpan, text: str, added: set[int]) -> int | None:
    """The index of the token that ends an answer: the last one of the first added tokens after its content.

    Args:
        ids: of the tokens of the text (T,).
        starts: the character where each token begins (T,).
        answer: where the answer stands.
        text: the text.
        added: ids of added tokens.

    Returns:
        None if no such token stands there, or another text does before it.
    """
    begin, stop = bisect_left(starts, answer.tail), bisect_left(starts, answer.end)
    first = next((index for index in range(begin, stop) if ids[index] in added), stop)
    if first == stop or text[answer.tail : starts[first]].strip():
        return None
    return next((index for index in range(first, stop) if ids[index] not in added), stop) - 1


def check_conversations(documents: datasets.Dataset, where: str, max_length: int) -> None:
    """Warn about what does not fit into max_length, and about prompts with other tokens than the conversation.

    Args:
        documents: what `encode_conversations` returns.
        where: the file or data set, for messages.
        max_length: the maximum length of a sequence.

    Raises:
        InputError: no answer fits.
    """
    if not any(has_answer(table).any() for table in documents.with_format("arrow").iter(DOCUMENTS)):
        raise InputError(f"{where}: no answer begins within max_length={max_length}")
    counted = ["is_first", "excess", "answers", "lost", "boundary"]
    columns = documents.select_columns(counted).with_format("arrow")[:]
    conversation = columns["is_first"].to_numpy().cumsum()
    count, excess = conversation[-1], columns["excess"].to_numpy()
    if excess.any():
        logger.warning(
            "%s: %d of %d conversations are longer than max_length=%d: %d tokens are cut off at their ends, and with "
            "them %d of %d answers, wholly or in part",
            *(where, len(np.unique(conversation[excess > 0])), count, max_length, excess.sum()),
            *(pc.sum(columns[name]).as_py() for name in ("lost", "answers")),
        )
    different = np.flatnonzero(pc.binary_length(columns["boundary"]).to_numpy())
    if len(different):
        logger.warning(
            "%s: in %d of %d conversations the tokens before an answer are not those of the prompt alone, which "
            "prediction reads; the first difference is between %s",
            *(where, len(np.unique(conversation[different])), count, columns["boundary"][different[0]].as_py()),
        )


def has_answer(documents: pa.Table) -> np.ndarray:
    """Whether each document has a label (N,)."""
    return np.array([np.not_equal(labels, IGNORE).any() for labels in documents["labels"].to_numpy()], dtype=bool)


# --- From documents to rows ---


def regroup_tables(documents: Iterator[pa.Table], max_length: int, pack: bool) -> Iterator[pa.RecordBatch]:
    """Rows of encoded documents or conversations; conversations without a label are left out.

    Args:
        documents: with `input_ids` and, of conversations, `labels`.
        max_length: maximum length of a row.
        pack: whether a row has whole documents; it always has whole conversations.
    """
    first = next(documents, None)
    if first is None:
        return
    documents = chain([first], documents)
    if "labels" in first.column_names:
        with_answer = (table.filter(pa.array(has_answer(table))) for table in documents)
        yield from pack_labelled(((table["input_ids"], table["labels"]) for table in with_answer), max_length)
    else:
        yield from (pack_documents if pack else cut_stream)((table["input_ids"] for table in documents), max_length)


def cut_stream(documents: Iterable[pa.ListArray], max_length: int) -> Iterator[pa.RecordBatch]:
    """Join all documents to one stream and cut it into blocks of max_length tokens; the last one may be shorter.

    Args:
        documents: token ids, some documents at a time.
        max_length: length of a block.
    """
    rest = np.empty(0, dtype=np.int32)
    for part in documents:
        stream = np.concatenate([rest, pc.list_flatten(part).to_numpy()])
        whole = len(stream) // max_length * max_length
        if whole:
            yield blocks_of(stream[:whole], max_length)
        rest = stream[whole:]
    if len(rest):
        yield blocks_of(rest, max_length)


def blocks_of(stream: np.ndarray, max_length: int) -> pa.RecordBatch:
    """Token ids (N,) as rows of max_length."""
    starts = range(0, len(stream), max_length)
    return rows_of([*starts, len(stream)], input_ids=stream, labels=stream)


def pack_documents(documents: Iterable[pa.ListArray], max_length: int) -> Iterator[pa.RecordBatch]:
    """Pack documents, in their order, into rows of at most max_length tokens.

    position_ids restart with each document, which tells the model where documents begin. The first token of a document
    has no label: there is no token to predict it from. A longer document is cut into pieces, which are separate, too.

    Args:
        documents: token ids, some documents at a time.
        max_length: maximum length of a row.
    """
    return pack_labelled(((ids, ids) for ids in documents), max_length)


def pack_labelled(documents: Iterable[tuple[pa.ListArray, pa.ListArray]], max_length: int) -> Iterator[pa.RecordBatch]:
    """As `pack_documents`, for token ids and labels; at least one batch, which may have no row."""
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
