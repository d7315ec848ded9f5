"""Conversations of a causal language model: rendered by the chat template, with the answers as labels."""

import logging
from bisect import bisect_left
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from ..data.columns import ASSISTANT
from ..data.errors import InputError, RowError, error_line
from .corruption import IGNORE
from .encoding import Row, Rows

logger = logging.getLogger(__name__)

Messages = list[dict[str, str]]
# A content that no message has.
MARK = "\ue000"
# The number of sequences that are looked at together.
DOCUMENTS = 1000
# The number of characters on either side of a boundary that a warning shows.
SHOWN = 20


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
