"""Load a saved model for prediction, with the settings that it was trained with."""

import logging
from dataclasses import replace

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..checkpoints.loading import ENGINE_FILE, load_config
from ..checkpoints.run_directory import ALL_RESULTS, trained_length
from ..data.errors import InputError
from ..scoring.tags import resolve_decoding
from ..tasks.base import Task
from ..tasks.encoding import Settings
from ..tasks.models import (
    continues,
    default_generation,
    position_limit,
    prepare_for_asking,
    problem_type_of,
    saved_settings,
    task_of,
)
from ..tasks.registry import TASKS
from ..tasks.sequence_classification import SEVERAL
from ..tokenization.loading import load_tokenizer
from ..tokenization.words import DEFAULT, WordSplitting, read_splitting, set_splitting
from ..training.arguments import DataArguments, ModelArguments
from ..training.checks import check_overflow
from ..training.models import check_position_limit, load_model
from .engines import load_engine, read_engine
from .options import PredictionOptions
from .prediction import RowPredictor

logger = logging.getLogger(__name__)


def load_predictor(directory: str, options: PredictionOptions) -> RowPredictor:
    """Load a saved model.

    Args:
        directory: of the model, or the name of a repository on the Hub.
        options: how texts are read and answered.

    Raises:
        InputError: it cannot be loaded, or an option does not go with its task.
    """
    config = load_config(directory, "DIR")
    task = task_of(config, directory)
    tokenizer = load_tokenizer(directory)
    given = generation_of(directory, options, task, config)
    check_options(directory, options, task, config)
    engine = read_engine(directory)
    if engine is not None:
        if options.num_answers is not None:
            raise InputError(f"num_answers: {directory} is of the engine {engine['engine']}, which gives one answer")
        model = load_engine(directory, engine["engine"], config)
    else:
        model = load_model(ModelArguments(model_name_or_path=directory), task, tokenizer, {}, False)
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        model.eval().to(device)
    generation = default_generation(task, model, tokenizer) | given
    if options.num_answers is not None and options.num_beams is None:
        generation["num_beams"] = max(options.num_answers, model.generation_config.num_beams or 1)
    prepare_for_asking(task, model, tokenizer, generation)
    new_tokens = generation.get("max_new_tokens", 0) if continues(task) else 0
    length = max_length_of(directory, options.max_length, config, new_tokens)
    settings = saved_settings(
        task,
        config,
        tokenizer,
        length,
        overflow=options.overflow,
        overlap=options.overlap,
        top_k=options.top_k or Settings.top_k,
        probabilities=options.probabilities,
        decode_tags=resolve_decoding(options.decode_tags),
    )
    if options.threshold is not None:
        thresholds = [float(options.threshold)] * len(settings.labels)
        single = {"abstain_threshold": options.threshold, "abstain_score": "probability"}
        several = {"label_thresholds": thresholds}
        settings = replace(settings, **(several if settings.problem_type == SEVERAL else single))
    return RowPredictor(task, model, settings, options.max_tokens_per_batch, generation)


def check_options(directory: str, options: PredictionOptions, task: Task, config: PretrainedConfig) -> None:
    """Raises InputError for an option that the task does not have."""
    check_overflow(task, options.overflow, options.overlap)
    for name in ("words", "decode_tags"):
        if getattr(options, name) is not None and not task.reads_words:
            able = ", ".join(each.name for each in TASKS.values() if each.reads_words)
            raise InputError(f"{name}: is for {able}, but {directory} is of {task.name}")
    own = task.answer_options(problem_type_of(config))
    for name in ("top_k", "probabilities", "threshold", "num_answers"):
        value = getattr(options, name)
        if value is not None and value is not False and name not in own:
            able = ", ".join(each.name for each in TASKS.values() if name in each.answer_options(None))
            kind = f" and {problem_type_of(config)}" if "problem_type" in task.options else ""
            hint = "; top_k gives several labels" if name == "num_answers" and "top_k" in own else ""
            raise InputError(f"{name}: is for {able}, but {directory} is of {task.name}{kind}{hint}")


def generation_of(directory: str, options: PredictionOptions, task: Task, config: PretrainedConfig) -> dict[str, int]:
    """The arguments of `generate` that are given. Raises InputError if the model does not generate, or has no room."""
    given = {name: getattr(options, name) for name in ("max_new_tokens", "num_beams")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.num_answers is not None and task.generation is not None:
        given["num_return_sequences"] = options.num_answers
    if task.generation is None and given:
        raise InputError(f"{next(iter(given))}: is for models that generate, but {directory} is of {task.name}")
    if "max_new_tokens" in given:
        # At least one token of the prompt must also fit.
        check_position_limit(config, {"max_new_tokens": given["max_new_tokens"] + continues(task)})
    return given


def max_length_of(directory: str, given: int | None, config: PretrainedConfig, new_tokens: int) -> int:
    """The maximum length of a sequence: the given one, or that of the model's training, or the default of training.

    Args:
        directory: of the model.
        given: the option max_length.
        config: the configuration of the model.
        new_tokens: the number of tokens to generate after the input.

    Raises:
        InputError: the given length exceeds the learned positions.
    """
    if given is not None:
        check_position_limit(config, {"max_length": given + new_tokens})
        return given
    length = trained_length(directory, ENGINE_FILE if read_engine(directory) else ALL_RESULTS)
    return int(min(length or DataArguments.max_length, position_limit(config) - new_tokens))


def word_rule(directory: str, given: str | None, tokenizer: PreTrainedTokenizerBase) -> str:
    """The rule that splits texts into words: the given one, or that of training. A warning says if they may differ.

    If the tokenizer has no rule, it gets this one.
    """
    trained = read_splitting(tokenizer.init_kwargs)
    if trained is None:
        rule = given or DEFAULT
        if given is None:
            message = "%s has no record of how its training words were split; --words is taken as %s"
            logger.warning(message, directory, rule)
        set_splitting(tokenizer, WordSplitting(rule, 1.0))
        return rule
    rule = given or trained.rule
    if rule != trained.rule:
        logger.warning("words: texts are split by %r, but for %s %s", rule, directory, trained)
    elif trained.share < 1:
        message = "words: for %s %s: a text may get other tags than a row of its words"
        logger.warning(message, directory, trained)
    return rule
