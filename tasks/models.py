"""What a saved model's configuration says about its task, and the settings with which the model is asked."""

import logging
import math
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..conversion.origin import without_adapter
from ..data.errors import InputError
from ..modeling.families import FAMILIES
from .base import Task
from .encoding import Settings
from .registry import TASKS
from .sequence_classification import REGRESSION

logger = logging.getLogger(__name__)

# The most tokens of a target, if neither the user nor the model says it.
NEW_TOKENS = 64


def task_of(config: PretrainedConfig, path: str) -> Task:
    """The task of a saved model, from its class. Raises InputError for a model without a head."""
    saved = (config.architectures or [""])[0]
    heads = FAMILIES[type(config)]
    for task in TASKS.values():
        if task.can_predict and task.auto_class in heads and heads[task.auto_class].__name__ == saved:
            return task
    raise InputError(f"{path}: {saved or 'the model'} has no head, so it cannot predict anything")


def problem_type_of(config: PretrainedConfig) -> str | None:
    """The problem type of a saved model. A classifier with one output and no problem type is a regression.

    So it is in the loss, too (`losses.sequence_loss`). Many cross-encoders of the Hub are saved in this way.
    """
    classifies = (config.architectures or [""])[0].endswith("ForSequenceClassification")
    return config.problem_type or (REGRESSION if classifies and config.num_labels == 1 else None)


def is_regression(model: PreTrainedModel) -> bool:
    """Whether the targets of a model are numbers, as in `problem_type_of`, and -100 is one of them."""
    model = without_adapter(model)
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return False
    config = model.config
    return config.problem_type == REGRESSION or (config.problem_type is None and config.num_labels == 1)


def continues(task: Task) -> bool:
    """Whether the model continues its input, in the same sequence."""
    return task.generation is not None and not task.generates


def part_configs(config: PretrainedConfig) -> list[PretrainedConfig]:
    """The configurations of encoder and decoder of an encoder-decoder; else a list of the configuration itself."""
    return [getattr(config, part) for part in config.sub_configs] or [config]


def reads_token_types(config: PretrainedConfig) -> bool:
    """Whether the model reads token_type_ids."""
    return any((getattr(part, "type_vocab_size", 0) or 0) > 1 for part in part_configs(config))


def position_limit(config: PretrainedConfig) -> float:
    """The longest sequence that a model can read, in tokens; infinite without learned position embeddings."""
    learned = [part for part in part_configs(config) if getattr(part, "position_type", None) == "learned"]
    return min((part.max_position_embeddings for part in learned), default=math.inf)


def default_generation(task: Task, model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The arguments of `generate` that the user has not chosen; they leave room for a prompt.

    The model's own limit of an answer comes first. A `max_length` of a model that continues is none: it counts the
    prompt, too. Many models of T5 have no limit; transformers would stop at 20 tokens.

    Args:
        task: of the model.
        model: of torch, or of another engine.
        tokenizer: of the model.
    """
    generation, limit = dict(task.default_generation(tokenizer) or {}), position_limit(model.config)
    if not generation and not task.generates:
        return generation
    own = model.generation_config
    if "max_new_tokens" in generation:
        most = generation["max_new_tokens"] if own.max_new_tokens is None else own.max_new_tokens
        generation["max_new_tokens"] = int(min(most, max(1, limit / 2)))
    elif own.max_new_tokens is None and own.max_length is None:
        generation["max_new_tokens"] = int(min(NEW_TOKENS, limit))
    return generation


def saved_settings(
    task: Task, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int, **options: Any
) -> Settings:
    """The settings with which a saved model is asked.

    Args:
        task: of the model.
        config: of the model, which has its labels and what was fitted to its outputs.
        tokenizer: of the model.
        max_length: of a sequence, in tokens.
        options: other fields of Settings.
    """
    return Settings(
        tokenizer=tokenizer,
        labels=[config.id2label[index] for index in sorted(config.id2label or {})],
        problem_type=problem_type_of(config),
        max_length=max_length,
        max_source_length=max_length,
        max_target_length=max_length,
        token_types=reads_token_types(config) and not continues(task),
        seed=0,
        tag_scheme=config.tag_scheme,
        label_thresholds=config.label_thresholds,
        abstain_threshold=config.abstain_threshold,
        abstain_score=config.abstain_score,
        **options,
    )


def prepare_for_asking(
    task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, generation: dict[str, Any]
) -> None:
    """Set what a saved model and its tokenizer need to be asked: the side of truncation, and one limit of a text.

    Warns if the tokenizer marks texts with their language (NLLB, M2M100), and nothing says which one is written.
    """
    if getattr(tokenizer, "tgt_lang", "") is None and task.generation is not None:
        config = model.generation_config
        starts = {config.forced_bos_token_id, config.decoder_start_token_id} - {None, tokenizer.eos_token_id}
        if not starts:
            logger.warning(
                "The target language is not set, so the model may write any: train it with --target_lang, or set "
                "forced_bos_token_id in generation_config.json"
            )
    if "max_new_tokens" in generation:
        # It replaces the model's own max_length.
        model.generation_config.max_length = None
    if task.truncation_side is not None:
        tokenizer.truncation_side = task.truncation_side
