"""The tokenizer of a run: the saved one that was named, or one that is trained on the rows."""

import logging

import datasets
from transformers import PreTrainedTokenizerBase

from ..data.streams import RowStream
from ..tasks.base import Task
from ..tasks.corruption import add_sentinels
from ..tasks.encoding import appends_special_token
from ..tokenization.kinds import is_trained_here
from ..tokenization.loading import load_tokenizer
from ..tokenization.settings import set_chat_template, set_languages, without_special_tokens
from ..tokenization.training import Texts, train_tokenizer
from ..tokenization.words import SENTENCES, WordSplitting, find_splitting, set_splitting
from .arguments import DataArguments, ModelArguments

logger = logging.getLogger(__name__)


def make_tokenizer(
    model_args: ModelArguments, data_args: DataArguments, task: Task, rows: datasets.Dataset | RowStream | None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a run: the one that was named, the model's, or one trained on the rows.

    Args:
        model_args: name a saved tokenizer, or say how one is trained.
        data_args: of the run.
        task: of the run.
        rows: the training split as `load_data` gives it; not needed for a saved tokenizer.

    Raises:
        InputError: see `load_tokenizer`, `set_languages`, `train_tokenizer`, `set_chat_template` and `add_sentinels`.
    """
    if model_args.saved_tokenizer:
        tokenizer = load_tokenizer(model_args.saved_tokenizer)
        set_languages(tokenizer, {"source_lang": model_args.source_lang, "target_lang": model_args.target_lang})
    else:
        tokenizer = train_tokenizer(
            Texts(rows, task.text_columns),
            model_args.tokenizer_type or "byte-bpe",
            model_args.vocab_size,
            model_args.tokenizer_normalization,
            adds_special_tokens=task.adds_special_tokens,
            exact=task.needs_exact_decoding,
        )
    if not task.adds_special_tokens and appends_special_token(tokenizer):
        tokenizer = without_special_tokens(tokenizer)
    if data_args.chat_template is not None:
        set_chat_template(tokenizer, data_args.chat_template)
    if task.has_sentinels:
        add_sentinels(tokenizer, data_args.max_length, data_args.noise(), normalized=is_trained_here(tokenizer))
    if rows is not None:
        set_splitting(tokenizer, find_word_splitting(rows) if task.reads_words else None)
    return tokenizer


def find_word_splitting(rows: datasets.Dataset | RowStream) -> WordSplitting | None:
    """The rule by which the words of the training rows were split; it is logged. None if there is no word."""
    rows = rows.head if isinstance(rows, RowStream) else rows
    splitting = find_splitting(rows[:SENTENCES]["tokens"])
    if splitting is not None:
        logger.info("Words: %s; prediction splits texts in the same way", splitting)
    return splitting
