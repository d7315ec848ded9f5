"""Conversations of a causal language model: rendered by the chat template, with the answers as labels."""

import logging
from bisect import bisect_left
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from ..data.errors import InputError, RowError, error_line
from ..data.kinds import ASSISTANT
from .corruption import IGNORE
from .encoding import Row, Rows

logger = logging.getLogger(__name__)

Messages = list[dict[str, str]]
# A content that no message has.
MARK = "\ue000"
# The number of sequences that are looked at together.
DOCUMENTS = 1000
# The number of characters of a text that a message shows.
SHOWN = 20


class AnswerSpan(NamedTuple):
    """Where an answer stands in a text, in characters.

    Args:
        start: its first character; the text before it is the prompt.
        content_end: the character after its content, where its end token is looked for.
        end: the character after all that the template writes for it.
    """

    start: int
    content_end: int
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
    name = f"the tokenizer {tokenizer.name_or_path or 'of this run'}"
    if tokenizer.chat_template is None:
        raise InputError(
            f"chat_template: {name} has none, and messages need one; seqblend train --chat_template FILE.jinja "
            "adds one"
        )
    if not tokenizer.is_fast:
        raise InputError(f"tokenizer_name_or_path: {name} is a slow one, and messages need a fast one")


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, add_generation_prompt: bool = False) -> str:
    """The text that the chat template makes of messages. Raises ValueError if the template refuses them."""
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    except Exception as error:  # a template runs code of its own, which raises whatever it likes
        raise ValueError(f"the chat template fails for these messages ({error_line(error)})") from error


def render_answers(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[Rendered]:
    """The texts in which the answers of a conversation are learnt, each after exactly what prediction would read.

    Most templates only append to what they wrote of earlier messages: then all answers share one text. If a template
    later writes earlier messages in another way (without their thoughts), a new text begins.

    Raises:
        ValueError: the template fails for the messages, the text with the answer does not begin with the prompt, or
            the template does not write the answer.
    """
    texts: list[Rendered] = []
    for index, message in enumerate(messages):
        if message["role"] != ASSISTANT:
            continue
        prompt = render(tokenizer, messages[:index], add_generation_prompt=True)
        text = render(tokenizer, messages[: index + 1])
        if not text.startswith(prompt):
            raise ValueError(
                f"message {index + 1}: with add_generation_prompt the chat template ends in …{prompt[-SHOWN:]!r}, but "
                "the conversation with the answer does not begin with this prompt; prediction would read another text "
                "than training"
            )
        other = render(tokenizer, [*messages[:index], {**message, "content": MARK}])
        if MARK not in other:
            raise ValueError(f"message {index + 1}: the chat template does not write its content")
        # What is written after any content shows where the content ends: a template may change the content itself.
        after = other.rpartition(MARK)[2]
        content_end = max(len(prompt), len(text.removesuffix(after)))
        continues = bool(texts) and prompt.startswith(texts[-1].text)
        before = texts.pop().answers if continues else []
        texts.append(Rendered(text, [*before, AnswerSpan(len(prompt), content_end, len(text))]))
    return texts


def encode_conversations(tokenizer: PreTrainedTokenizerBase, conversations: list[Messages], max_length: int) -> Rows:
    """Encode conversations, each as one or several sequences.

    Returns:
        Columns with a value for each sequence:
        - `input_ids`, at most max_length, and their `labels`;
        - `answers`, the number of answers in the whole sequence, and `ends`, the ids of the tokens that end them;
        - `cut_tokens` and `cut_answers`, the numbers of tokens and of answers that max_length cuts off, wholly or in
          part;
        - `difference`, the texts around a place where a prompt alone has other tokens, or an empty text;
        - `is_first`, whether the sequence is the first of its conversation.

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
        sequence |= {"is_first": row != last_row, "cut_tokens": max(0, len(ids) - max_length)}
        sequence["cut_answers"] = sum(position >= max_length for position in sequence.pop("end_positions"))
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
        `labels` (T,), `answers`, `ends` and `difference` as in `encode_conversations`, and `end_positions`, the index
        of the token that ends each answer.

    Raises:
        ValueError: an answer has no end.
    """
    text, difference, end_positions = rendered.text, "", []
    labels = [IGNORE] * len(ids)
    starts = [start for start, _ in offsets]
    for answer, prompt in zip(rendered.answers, prompts, strict=True):
        is_same = ids[: len(prompt)] == prompt
        # Offsets leave it open to which side a token of white space belongs.
        first = len(prompt) if is_same else bisect_left(starts, answer.start)
        end = find_end(ids, starts, answer, text, added)
        if end is None:
            written = text[answer.content_end : answer.end][:SHOWN]
            raise ValueError(
                f"after an answer the chat template writes {written!r}, in which no added token follows the content, "
                "so the model would not learn to stop; write {{ eos_token }} there, or add the token to the tokenizer"
            )
        labels[first : end + 1] = ids[first : end + 1]
        end_positions.append(end)
        if not is_same:
            before, after = text[: answer.start], text[answer.start :]
            difference = f"…{before[-SHOWN:]!r} and {after[:SHOWN]!r}…"
    return {
        "labels": labels,
        "answers": len(end_positions),
        "ends": [ids[position] for position in end_positions],
        "end_positions": end_positions,
        "difference": difference,
    }


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
    begin, stop = bisect_left(starts, answer.content_end), bisect_left(starts, answer.end)
    first = next((index for index in range(begin, stop) if ids[index] in added), stop)
    if first == stop or text[answer.content_end : starts[first]].strip():
        return None
    return next((index for index in range(first, stop) if ids[index] not in added), stop) - 1


def check_conversations(documents: datasets.Dataset, source: str, max_length: int) -> None:
    """Warn about what does not fit into max_length, and about prompts with other tokens than the conversation.

    Args:
        documents: what `encode_conversations` returns.
        source: the file or data set, for messages.
        max_length: the maximum length of a sequence.

    Raises:
        InputError: no answer fits.
    """
    if not any(has_answer(table).any() for table in documents.with_format("arrow").iter(DOCUMENTS)):
        raise InputError(f"{source}: no answer begins within max_length={max_length}")
    counted = ["is_first", "answers", "cut_tokens", "cut_answers", "difference"]
    columns = documents.select_columns(counted).with_format("arrow")[:]
    conversation = columns["is_first"].to_numpy().cumsum()
    count, cut_tokens = conversation[-1], columns["cut_tokens"].to_numpy()
    if cut_tokens.any():
        logger.warning(
            "%s: %d of %d conversations are longer than max_length=%d: %d tokens are cut off at their ends, and with "
            "them %d of %d answers, wholly or in part",
            *(source, len(np.unique(conversation[cut_tokens > 0])), count, max_length, cut_tokens.sum()),
            *(pc.sum(columns[name]).as_py() for name in ("cut_answers", "answers")),
        )
    different = np.flatnonzero(pc.binary_length(columns["difference"]).to_numpy())
    if len(different):
        logger.warning(
            "%s: in %d of %d conversations the tokens before an answer differ from those of the prompt alone, which "
            "prediction reads; first difference between %s",
            *(source, len(np.unique(conversation[different])), count, columns["difference"][different[0]].as_py()),
        )


def has_answer(documents: pa.Table) -> np.ndarray:
    """Whether each document has a label (N,)."""
    return np.array([np.not_equal(labels, IGNORE).any() for labels in documents["labels"].to_numpy()], dtype=bool)
