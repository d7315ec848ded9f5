"""Corrupting texts for training: masking tokens or whole words, and cutting out spans.

Positions and tokens are NumPy arrays (T,). All randomness comes from the given generator.
"""

import abc
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ..data.errors import InputError

Row = dict[str, Any]
IGNORE = -100
# Characters of a text that are read to find out whether a tokenizer splits it into words.
MAX_CHARACTERS = 10_000
# T5's name of the tokens that replace spans.
SENTINEL = "<extra_id_{}>"


@dataclass(frozen=True)
class Noise:
    """How much of a text is masked or cut out.

    Args:
        probability: the probability that a token is masked, or a word with `whole_words`; in denoising, the share of
            tokens that is cut out.
        whole_words: mask all tokens of a word or none.
        mean_span_length: mean length of the spans in denoising, in tokens.
    """

    probability: float = 0.15
    whole_words: bool = False
    mean_span_length: float = 3.0

    def spans_of(self, length: int) -> tuple[int, int]:
        """Number of tokens cut out of `length` tokens, and number of spans: at least one each, but never all tokens.

        Source: Raffel et al. 2020, §3.1.4 and §3.3.4.
        """
        if length < 2:
            return 0, 0
        num_noise = min(max(round(length * self.probability), 1), length - 1)
        # No two spans are adjacent: n remaining tokens leave n + 1 places for spans.
        num_spans = min(max(round(num_noise / self.mean_span_length), 1), length - num_noise + 1)
        return num_noise, num_spans


# --- Masked tokens ---


def mask_tokens(
    input_ids: np.ndarray,
    word_ids: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    probability: float,
    generator: np.random.Generator,
    at_least_one: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose words; 80 % of their tokens become [MASK], 10 % a random token, 10 % stay.

    transformers' DataCollatorForLanguageModeling is not used: with whole words it replaces every token by [MASK], and
    it takes each run of text without a gap for a word.

    Args:
        input_ids: (T,).
        word_ids: index of each token's word (T,), or of the token itself; -1 for tokens that are never masked.
        tokenizer: has the mask token.
        probability: of choosing a word.
        generator: source of the random numbers.
        at_least_one: choose one word if none was chosen at random.

    Returns:
        The masked tokens, and the labels, -100 where no word was chosen; (T,) each.

    Source: Devlin et al. 2019, §3.1; whole words as in their later models.
    """
    chosen = generator.random(word_ids.max(initial=-1) + 1) < probability
    words = word_ids[word_ids >= 0]
    if at_least_one and len(words) and not chosen[words].any():
        chosen[generator.choice(words)] = True
    # The index -1 reads the appended False.
    is_target = np.append(chosen, False)[word_ids]
    draw = generator.random(len(input_ids))
    others = generator.integers(len(tokenizer), size=len(input_ids))
    masked = np.where(is_target & (draw < 0.8), tokenizer.mask_token_id, input_ids)
    masked = np.where(is_target & (draw >= 0.9), others, masked)
    return masked, np.where(is_target, input_ids, IGNORE)


def maskable_words(input_ids: list[int], word_ids: list[int | None] | None, special: set[int]) -> list[int]:
    """The `word_ids` for mask_tokens: -1 for special tokens and for words that contain one.

    Args:
        input_ids: tokens of one row.
        word_ids: of its encoding; None makes every token a word.
        special: the special tokens, including [UNK].
    """
    words = list(range(len(input_ids))) if word_ids is None else [-1 if word is None else word for word in word_ids]
    fixed = {-1, *(word for word, token in zip(words, input_ids, strict=True) if token in special)}
    return [-1 if word in fixed else word for word in words]


def splits_words(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> bool:
    """Whether the tokenizer splits a text with a space into several words. True if no text has a space."""
    spaced = (part for text in texts if len((part := text[:MAX_CHARACTERS]).split()) > 1)
    found = [len(set(tokenizer(part, add_special_tokens=False).word_ids())) > 1 for part in islice(spaced, 100)]
    return any(found) or not found


# --- Spans ---


def cut_spans(
    tokens: np.ndarray, noise: Noise, sentinels: list[int], generator: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Cut spans out of a text. In the source a sentinel replaces each span, and the target has the spans.

    The places of the spans and their lengths are drawn uniformly. T5's own code always cuts out the end of the text;
    here every place is equally likely.

    Args:
        tokens: without special tokens, (T,).
        noise: how much is cut out.
        sentinels: sentinel tokens, the first one for the first span.
        generator: source of the random numbers.

    Returns:
        The source, and the target without end token: for each span its sentinel and its tokens.
    """
    num_noise, num_spans = noise.spans_of(len(tokens))
    cuts = np.sort(generator.choice(np.arange(1, max(num_noise, 1)), max(num_spans - 1, 0), replace=False))
    lengths = np.diff([0, *cuts, num_noise])
    # The number of kept tokens before each span.
    gaps = np.sort(generator.choice(len(tokens) - num_noise + 1, num_spans, replace=False))
    text, source, target, start = tokens.tolist(), [], [], 0
    for sentinel, length, num_kept in zip(sentinels, lengths, np.diff([0, *gaps]), strict=False):
        source += [*text[start : start + num_kept], sentinel]
        target += [sentinel, *text[start + num_kept : start + num_kept + length]]
        start += num_kept + length
    return [*source, *text[start:]], target


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the sentinel tokens in a tokenizer's vocabulary, in order."""
    vocabulary, found = tokenizer.get_vocab(), []
    while (token := SENTINEL.format(len(found))) in vocabulary:
        found.append(vocabulary[token])
    return found


def add_sentinels(tokenizer: PreTrainedTokenizerBase, max_length: int, noise: Noise, normalized: bool = False) -> int:
    """Add the sentinels that texts of max_length need to a tokenizer.

    Args:
        tokenizer: is changed.
        max_length: of the texts, in tokens.
        noise: how much is cut out of them.
        normalized: match the sentinels after the tokenizer's normalizer, which removes the space before them.

    Returns:
        The number of tokens added.

    Raises:
        InputError: the target of such a text, with sentinels and end token, is longer than max_length.
    """
    num_noise, num_spans = noise.spans_of(max_length)
    if num_noise + num_spans + 1 > max_length:
        raise InputError(
            f"mask_probability: {noise.probability} of max_length={max_length} tokens in spans of "
            f"{noise.mean_span_length} make a target of {num_noise + num_spans + 1}; lower it"
        )
    num_existing = len(sentinel_ids(tokenizer))
    names = [SENTINEL.format(index) for index in range(num_existing, num_spans)]
    if names:
        tokens = [AddedToken(name, special=True, normalized=normalized) for name in names]
        tokenizer.add_special_tokens({"extra_special_tokens": tokens}, replace_extra_special_tokens=False)
    return len(names)


# --- Batches ---


class NoisyCollator(TrainerCallback, abc.ABC):
    """Corrupts rows, differently in each epoch. Rows with labels are corrupted already and are only padded.

    The noise depends only on the batch and the epoch, so a resumed run draws the same. A saved random state would not
    help: when a checkpoint is written, later batches have been made already.

    Args:
        tokenizer: pads rows, and has the mask token or the sentinels.
        noise: how much is corrupted.
    """

    # Columns that the collator reads and no model does.
    reads: tuple[str, ...] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerBase, noise: Noise):
        self.tokenizer, self.noise, self.epoch = tokenizer, noise, 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch; BlendTrainer adds a collator that is a callback to its callbacks."""
        self.epoch = int(state.epoch)

    def __call__(self, features: list[Row]) -> dict[str, torch.Tensor]:
        """Make a batch of input_ids, attention_mask and labels (B, T) from rows with input_ids, and perhaps labels."""
        if "labels" not in features[0]:
            content = np.concatenate([[self.epoch], *(row["input_ids"] for row in features)])
            generator = np.random.default_rng(zlib.crc32(content.tobytes()))
            features = [self.corrupt(row, generator) for row in features]
        return self.pad([{name: row[name] for name in row if name not in self.reads} for row in features])

    @abc.abstractmethod
    def corrupt(self, row: Row, generator: np.random.Generator, for_evaluation: bool = False) -> Row:
        """Corrupt a row with input_ids, and add labels; rows for evaluation are corrupted once."""

    @abc.abstractmethod
    def pad(self, features: list[Row]) -> dict[str, torch.Tensor]:
        """Pad rows to a batch."""
