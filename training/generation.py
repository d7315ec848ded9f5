"""The settings of generation: of the model, of --generation_config, and what follows from the data."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
)

from ..data.errors import InputError, error_line
from .arguments import DataArguments

logger = logging.getLogger(__name__)

# Settings of generation that have an effect with several beams only, and with sampling only.
OF_BEAMS = ("early_stopping", "length_penalty")
OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
# With these, `generate` returns one sequence for each row, as a tensor.
ONE_PER_ROW = {
    "num_return_sequences": 1,
    **dict.fromkeys(("return_dict_in_generate", *GenerationConfig.extra_output_flags), False),
}


def load_generation_config(given: str | Path | dict[str, Any] | GenerationConfig) -> GenerationConfig:
    """Load generation settings as Seq2SeqTrainer does, also from a mapping. Errors of transformers pass unchanged."""
    return Seq2SeqTrainer.load_generation_config(GenerationConfig(**given) if isinstance(given, dict) else given)


def generation_settings(config: GenerationConfig) -> dict[str, Any]:
    """The settings of a generation config that are not None."""
    internal = {"transformers_version", "_from_model_config"}
    return {name: value for name, value in config.to_diff_dict().items() if value is not None and name not in internal}


def complete_generation_config(
    config: GenerationConfig, own: GenerationConfig, args: Seq2SeqTrainingArguments
) -> GenerationConfig:
    """A copy of the model's generation config, overridden by the settings of another one and generation_num_beams.

    Special tokens that differ from the model's are named in a warning.

    Raises:
        ValueError: the settings contradict each other.
    """
    settings = generation_settings(config)
    if args.generation_num_beams is not None:
        settings["num_beams"] = args.generation_num_beams
    for name, other in (("max_new_tokens", "max_length"), ("max_length", "max_new_tokens")):
        if name in settings:
            # generate warns if both are set.
            settings.setdefault(other, None)
    tokens = {name: (settings[name], getattr(own, name, None)) for name in settings if name.endswith("token_id")}
    others = [f"{name} {new}, not {old}" for name, (new, old) in tokens.items() if old not in (None, new)]
    if others:
        logger.warning("generation_config has other tokens than the model: %s", "; ".join(others))
    merged = deepcopy(own)
    merged.update(**settings)
    merged.validate(strict=True)
    return merged


@contextmanager
def for_evaluation(trainer: Trainer) -> Iterator[GenerationConfig | None]:
    """The model's generation config with ONE_PER_ROW; restored afterwards.

    Seq2SeqTrainer reads the shape of what is generated, compares each row with its label, and writes into the config
    (`default_gen_config`).
    """
    config = getattr(trainer.model, "generation_config", None)
    if config is None:
        yield None
        return
    own = deepcopy(vars(config))
    vars(config).update(ONE_PER_ROW)
    try:
        yield config
    finally:
        vars(config).clear()
        vars(config).update(own)


def set_generation(model: PreTrainedModel, data_args: DataArguments, args: Seq2SeqTrainingArguments) -> None:
    """Set the model's generation length and beams. Without flags, a model that is not trained keeps its length."""
    length = data_args.max_target_length or data_args.max_length
    if args.do_train or data_args.max_target_length or data_args.max_length != DataArguments.max_length:
        # One more for the start token.
        model.generation_config.max_length = length + 1
    if args.generation_num_beams is not None:
        model.generation_config.num_beams = args.generation_num_beams
    if args.generation_num_beams == 1:
        reset_settings(model.generation_config, OF_BEAMS)


def reset_settings(config: GenerationConfig, names: tuple[str, ...]) -> None:
    """Give settings of generation their defaults; transformers refuses to save those that have no effect."""
    defaults = GenerationConfig()
    for name in names:
        setattr(config, name, getattr(defaults, name))


def set_target_language(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let generation start with the language of the targets, if the tokenizer marks it with a token, as training does.

    The token is the first one of the targets (NLLB, M2M100, mBART-50), or follows their end; then it is also read
    before them (mBART).

    Raises:
        InputError: the tokenizer does not say which language that is.
    """
    if not hasattr(tokenizer, "tgt_lang"):
        if getattr(model.config, "shift_start", None) == "last_token":
            raise InputError("tokenizer_name_or_path: this model needs a tokenizer with languages, as mBART has it")
        return
    if tokenizer.tgt_lang is None:
        raise InputError(
            "target_lang: the tokenizer marks each text with its language: give --source_lang and --target_lang"
        )
    logger.info("Languages: %s to %s", tokenizer.src_lang, tokenizer.tgt_lang)
    ids = tokenizer(text_target="")["input_ids"]
    config = model.generation_config
    if ids[0] != tokenizer.eos_token_id:
        config.forced_bos_token_id = ids[0]
    elif getattr(model.config, "shift_start", None) == "last_token":
        config.decoder_start_token_id, config.forced_bos_token_id = ids[-1], None
    else:
        raise InputError("tokenizer_name_or_path: puts the language after a target, where this model does not read it")


def check_generation_settings(model: PreTrainedModel) -> None:
    """Raises InputError for settings of generation that transformers refuses when the model is saved."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise InputError(
            f"generation_config: the model cannot be saved with its settings ({error_line(error)}); "
            "--generation_config changes them"
        ) from error


def add_end_tokens(model: PreTrainedModel, ends: list[int]) -> None:
    """Let generation also end at these tokens, with which a chat template ends an answer.

    A chat model whose settings do not say whether to sample gets the most probable answer, also from a pipeline, which
    samples by default.
    """
    if not ends:
        return
    config = model.generation_config
    own = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    every = [token for token in dict.fromkeys([*own, *ends]) if token is not None]
    config.eos_token_id = every[0] if len(every) == 1 else every
    config.do_sample = bool(config.do_sample)
    if not config.do_sample:
        reset_settings(config, OF_SAMPLING)
