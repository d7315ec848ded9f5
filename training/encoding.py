"""How the rows of a run are encoded: by its tokenizer, saved or trained on the rows, and the settings of its task."""

import logging

import datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.errors import InputError
from ..data.splits import LabelledData
from ..data.streams import RowStream
from ..scoring.tags import resolve_decoding
from ..tasks.base import Task
from ..tasks.corruption import add_sentinels
from ..tasks.encoding import Settings, appends_special_token
from ..tasks.models import reads_token_types
from ..tokenization.kinds import is_trained_here
from ..tokenization.loading import load_tokenizer
from ..tokenization.settings import (
    NEEDS_PAIR,
    reads_text_pairs,
    set_chat_template,
    set_languages,
    set_text_pairs,
    without_special_tokens,
)
from ..tokenization.training import Texts, train_tokenizer
from ..tokenization.words import SENTENCES, WordSplitting, find_splitting, set_splitting
from .arguments import BlendTrainingArguments, DataArguments, ModelArguments
from .models import adds_special_tokens_to_targets, check_position_limit

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
        set_text_pairs(tokenizer, "text_pair" in rows.column_names)
    return tokenizer


def find_word_splitting(rows: datasets.Dataset | RowStream) -> WordSplitting | None:
    """The rule by which the words of the training rows were split; it is logged. None if there is no word."""
    rows = rows.head if isinstance(rows, RowStream) else rows
    splitting = find_splitting(rows[:SENTENCES]["tokens"])
    if splitting is not None:
        logger.info("Words: %s; prediction splits texts in the same way", splitting)
    return splitting


def make_settings(
    data_args: DataArguments,
    args: BlendTrainingArguments,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: LabelledData,
    model: PreTrainedModel,
) -> Settings:
    """The settings of the task.

    Raises:
        InputError: a length is beyond the learned positions, or a split lacks the second text that the model needs.
    """
    for split in rows if reads_text_pairs(tokenizer) else ():
        if "text_pair" not in rows[split].column_names:
            raise InputError(f"{rows.origins[split]}: no column 'text_pair' (--text_pair_column){NEEDS_PAIR}")
    lengths = data_args.lengths()
    used = {name: lengths[name] for name in lengths if (name == "max_length") != task.generates}
    if task.generates and args.generation_max_length is not None:
        used["generation_max_length"] = args.generation_max_length - 1  # the last token is not read
    if args.generation_config is not None:
        generated = (args.generation_config.max_new_tokens or 0, (args.generation_config.max_length or 0) - 1)
        used["generation_config"] = max(generated)
    check_position_limit(model.config, used)
    return Settings(
        tokenizer=tokenizer,
        labels=rows.label_names,
        origins=rows.origins,
        problem_type=model.config.problem_type,
        token_types=reads_token_types(model.config),
        seed=args.seed,
        overflow=data_args.overflow,
        overlap=data_args.overlap,
        noise=data_args.noise(),
        adds_special_tokens_to_targets=adds_special_tokens_to_targets(tokenizer, model.config),
        pack_documents=data_args.pack_documents,
        bleu_tokenize=data_args.bleu_tokenize,
        tag_scheme=model.config.tag_scheme,
        label_thresholds=model.config.label_thresholds,
        abstain_threshold=model.config.abstain_threshold,
        abstain_score=model.config.abstain_score,
        decode_tags=resolve_decoding(data_args.decode_tags),
        **lengths,
    )
