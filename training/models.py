"""The model of a run: built from a recipe, or loaded from a saved one with every tensor accounted for."""

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainingArguments,
)
from transformers.tokenization_utils_base import LARGE_INTEGER

from ..configuration.base import unknown
from ..configuration.encoder_decoder import BlendEncoderDecoderConfig
from ..data.errors import InputError, describe, in_one_line, one_line
from ..modeling.families import FAMILIES
from ..tasks.base import Task
from ..tasks.registry import TASKS
from .arguments import DataArguments, ModelArguments
from .loading import check_loaded, load_config, load_weights
from .option_files import parse_pairs
from .tokenizers import load_tokenizer

logger = logging.getLogger(__name__)

# Fields that are not the user's to override, and what tells them.
TOLD = {
    **dict.fromkeys(("num_labels", "id2label", "label2id", "problem_type"), "the data and --problem_type"),
    **dict.fromkeys(
        [f"{kind}_token_id" for kind in ("pad", "bos", "eos", "cls", "sep", "mask", "decoder_start")], "the tokenizer"
    ),
    "is_encoder_decoder": "the architecture",
}

# Fields that must fit the rows of a head.
OF_LABELS = ("id2label", "label2id", "class_weights")


def architecture_of(config_class: type[PretrainedConfig]) -> str:
    return config_class.model_type.removeprefix("blend_").replace("_", "-")


ARCHITECTURES = {architecture_of(config_class): config_class for config_class in FAMILIES}


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids of the tokenizer's special tokens, by the name of their config field."""
    names = [f"{kind}_token_id" for kind in ("pad", "bos", "eos", "cls", "sep", "mask")]
    ids = {name: getattr(tokenizer, name, None) for name in names}
    return {name: value for name, value in ids.items() if value is not None}


def saved_labels(path: str) -> list[str]:
    """The label names of a saved model, in the order of their ids. Raises InputError if it cannot be loaded."""
    names = load_config(path).id2label or {}
    return [names[index] for index in sorted(names)]


def with_saved_problem_type(data_args: DataArguments, task: Task, path: str) -> DataArguments:
    """The arguments with the problem type of a saved model where they name none.

    A single label, the default, stays unsaid: with it a label that looks like a number would be taken for a name.
    """
    problem_type = load_config(path).problem_type
    is_other = problem_type in ("multi_label_classification", "regression")
    if "problem_type" in task.options and data_args.problem_type is None and is_other:
        return replace(data_args, problem_type=problem_type)
    return data_args


def parts_of(config: PretrainedConfig) -> list[PretrainedConfig]:
    """The configurations of an encoder-decoder's parts; of another model, itself."""
    return [getattr(config, part) for part in config.sub_configs] or [config]


def reads_token_types(config: PretrainedConfig) -> bool:
    return any((getattr(part, "type_vocab_size", 0) or 0) > 1 for part in parts_of(config))


def reach_of(config: PretrainedConfig) -> float:
    """The longest sequence that a model reads; only learned positions end."""
    learned = [part for part in parts_of(config) if getattr(part, "position_type", None) == "learned"]
    return min((part.max_position_embeddings for part in learned), default=math.inf)


def check_reach(config: PretrainedConfig, lengths: dict[str, int]) -> None:
    """Raises InputError for a length, by the name of its option, that learned positions do not reach."""
    name, reach = max(lengths, key=lambda key: lengths[key]), reach_of(config)
    if lengths[name] > reach:
        raise InputError(f"{name}: {lengths[name]} is more than max_position_embeddings={reach} of the model")


def set_model_max_length(
    tokenizer: PreTrainedTokenizerBase, model_args: ModelArguments, reach: float, trained: int
) -> None:
    """Set where `truncation=True` cuts with the saved tokenizer: at the longest text the model has been trained on.

    Args:
        tokenizer: of the run.
        model_args: say whether the tokenizer came with a saved model, which may have been trained on longer texts.
        reach: the longest sequence that the model reads.
        trained: the longest text of this run, in tokens.
    """
    before = 0
    if model_args.model_name_or_path and not model_args.tokenizer_name_or_path:
        before = tokenizer.model_max_length
    # Where nothing is known, transformers has a number above LARGE_INTEGER.
    tokenizer.model_max_length = max(trained, before if before <= min(reach, LARGE_INTEGER) else 0)


def make_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: Seq2SeqTrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    labels: list[str],
    class_weights: list[float] | None = None,
) -> PreTrainedModel:
    """A new model, or a saved one, with the labels of this run; label smoothing moves from the Trainer into it.

    Raises:
        InputError: it cannot be built or loaded.
    """
    task = TASKS[data_args.task]
    fields = task.config_fields(data_args.problem_type)
    if labels:
        fields["id2label"] = dict(enumerate(labels))
        fields["label2id"] = {name: index for index, name in enumerate(labels)}
    if class_weights is not None:
        fields["class_weights"] = class_weights
    smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0
    if args.do_train:
        fields["label_smoothing"] = smoothing
    given = (model_args, task, tokenizer, fields)
    try:
        if model_args.model_name_or_path:
            model = load_model(*given, args.do_train)
        elif model_args.encoder_name_or_path:
            model = join_models(*given)
        else:
            model = task.auto_class.from_config(build_config(*given))
    except InputError:
        raise
    except Exception as error:  # torch, and configurations made of odd values, raise whatever they meet
        raise InputError(f"config_overrides: the model cannot be built ({in_one_line(error)})") from error
    if task.generates or task.has_sentinels:
        set_generation(model, data_args, args)
    return model


def set_generation(model: PreTrainedModel, data_args: DataArguments, args: Seq2SeqTrainingArguments) -> None:
    """How the model generates from now on. One that is not trained keeps its own where the flags say nothing."""
    length = data_args.max_target_length or data_args.max_length
    if args.do_train or data_args.max_target_length or data_args.max_length != DataArguments.max_length:
        # With the start token.
        model.generation_config.max_length = length + 1
    if args.do_train or args.generation_num_beams is not None:
        model.generation_config.num_beams = args.generation_num_beams or 1


def build_config(
    arguments: ModelArguments, task: Task, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> PretrainedConfig:
    """The configuration of a new model.

    Args:
        arguments: architecture, recipe and overrides.
        task: says which heads will do.
        tokenizer: its size and special tokens become the model's.
        settings: other fields, such as labels.

    Raises:
        InputError: an unknown architecture, recipe or option; an architecture that has no head for the task; or values
            that do not go together.
    """
    name = arguments.architecture or task.architecture
    if name not in ARCHITECTURES:
        raise InputError(unknown("architecture", name, list(ARCHITECTURES)))
    config_class = ARCHITECTURES[name]
    check_head(config_class, task)
    fields = {"vocab_size": len(tokenizer), **special_tokens(tokenizer), **settings}
    fields = {key: value for key, value in fields.items() if key in config_class.options()}
    overrides = overrides_of(arguments, config_class)
    with configuration_errors():
        config = config_class.from_recipe(arguments.recipe or "default", **{**fields, **overrides})
    check_vocabulary(config, tokenizer, "config_overrides")
    return config


def load_model(
    arguments: ModelArguments,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    settings: dict[str, Any],
    training: bool,
) -> PreTrainedModel:
    """A saved model with the head of the task; a head that is new starts anew, as do the rows of new labels.

    Args:
        arguments: where it is, and what to override.
        task: which head it gets.
        tokenizer: must not know more tokens than the model.
        settings: fields of the configuration to change, such as labels.
        training: whether it is to be trained; if not, nothing may start anew.

    Raises:
        InputError: it cannot be loaded; a tensor of the base model is missing, unexpected or of another shape; it is
            of another architecture; the tokenizer is too large.
    """
    path = arguments.model_name_or_path
    config = load_config(path)
    check_saved(config, arguments, task, None if training else settings.get("problem_type"))
    own, labels = head_labels(config, task, settings), [*settings.get("id2label", {}).values()]
    relabelled = own not in (None, labels)
    if relabelled and not training:
        raise InputError(f"model_name_or_path: {path} has a head for other labels, and nothing is trained")
    # A model that is only asked keeps its labels.
    kept = settings.get("id2label", None if training else config.id2label)
    if config.class_weights and "class_weights" not in settings and kept != config.id2label:
        logger.warning("Of %s, is dropped: class_weights, which are of other labels", path)
        settings = {"class_weights": None, **settings}
    changes = {**settings, **overrides_of(arguments, type(config))}
    # The head is loaded as it was saved, and then given the labels of this run.
    later = {name: changes.pop(name) for name in OF_LABELS if relabelled and name in changes}
    change_config(config, changes)
    check_vocabulary(config, tokenizer, f"model_name_or_path: {path}")
    model, info = load_weights(task.auto_class, path, config)
    check_loaded(path, model, info, training)
    if relabelled:
        relabel(model, own, labels, path)
        change_config(model.config, later)
    return model


def check_saved(config: PretrainedConfig, arguments: ModelArguments, task: Task, problem_type: str | None) -> None:
    """Raises InputError for a saved model of another architecture, without a head, or for another problem_type."""
    path, name = arguments.model_name_or_path, architecture_of(type(config))
    if arguments.architecture not in (None, name):
        raise InputError(f"architecture: {arguments.architecture}, but model_name_or_path {path} is {name}")
    check_head(type(config), task)
    if problem_type != config.problem_type and None not in (problem_type, config.problem_type):
        raise InputError(f"problem_type: {problem_type}, but the model was trained for {config.problem_type}")


def head_labels(config: PretrainedConfig, task: Task, settings: dict[str, Any]) -> list[str] | None:
    """The names of the rows of a saved head, as far as a head with other labels can take them over.

    Returns:
        None where the model has no head of the task's kind, or the settings no labels; no name where a head of numbers
        becomes one of classes, or the other way round.
    """
    head = FAMILIES[type(config)][task.auto_class].__name__
    if "id2label" not in settings or head not in (config.architectures or []):
        return None
    names = [config.id2label[index] for index in sorted(config.id2label)]
    # As in sequence_loss.
    was_number = config.problem_type == "regression" or (config.problem_type is None and len(names) == 1)
    is_number = settings.get("problem_type") == "regression"
    if was_number and is_number and len(names) == len(settings["id2label"]):
        # Numbers have no names of their own.
        return list(settings["id2label"].values())
    return [] if was_number or is_number else names


def relabel(model: PreTrainedModel, old: list[str], new: list[str], path: str) -> None:
    """Give a classifier other labels: the row of each label that the head knows stays with it, others start anew.

    Args:
        model: with a head of the old labels.
        old: the labels in the order of the rows, or none where no row is to be kept.
        new: likewise, of the new head.
        path: of the model, for the line that tells what becomes of the labels.
    """
    name = "score" if hasattr(model, "score") else "classifier"
    saved = getattr(model, name)
    head = nn.Linear(saved.in_features, len(new)).to(saved.weight)
    model._init_weights(head)
    # transformers calls class 3 LABEL_3 where nobody has named it.
    rows = {label: known for label in new for known in (label, f"LABEL_{label}") if known in old}
    with torch.no_grad():
        for label, known in rows.items():
            head.weight[new.index(label)] = saved.weight[old.index(known)]
            head.bias[new.index(label)] = saved.bias[old.index(known)]
    setattr(model, name, head)
    told = {
        "are taken over": list(rows),
        "start anew": [label for label in new if label not in rows],
        "are dropped": [label for label in old if label not in rows.values()],
    }
    parts = [f"{what}: {', '.join(map(one_line, labels))}" for what, labels in told.items() if labels]
    logger.warning("Of %s, labels %s", path, "; ".join(parts))


def join_models(
    arguments: ModelArguments, task: Task, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> PreTrainedModel:
    """An encoder-decoder of a saved encoder and a saved decoder, which have not seen each other.

    Each keeps its embedding, and the decoder its projection onto the vocabulary. Cross-attention starts anew, as does
    the head of a classifier.

    Args:
        arguments: where the two are, and what to override.
        task: which head it gets.
        tokenizer: must not know more tokens than either.
        settings: fields of the configuration to change, such as labels.

    Raises:
        InputError: see load_model; or the vocabularies of the two differ.

    Source: Rothe et al. 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks".
    """
    paths = {"encoder": arguments.encoder_name_or_path, "decoder": arguments.decoder_name_or_path}
    check_same_vocabulary(paths)
    parts = {name: part_config(name, path) for name, path in paths.items()}
    config = BlendEncoderDecoderConfig(
        **parts, share_encoder_decoder_embeddings=False, tie_word_embeddings=parts["decoder"].tie_word_embeddings
    )
    check_head(type(config), task)
    change_config(config, {**settings, **overrides_of(arguments, type(config))})
    check_vocabulary(config, tokenizer, " and ".join(paths.values()))
    model = task.auto_class.from_config(config)
    writes = task.auto_class is AutoModelForSeq2SeqLM
    given: set[str] = set()
    for name, path in paths.items():
        auto_class = AutoModelForCausalLM if name == "decoder" and writes else AutoModel
        part = load_part(auto_class, path, getattr(config, name), f"{name}_name_or_path")
        taken = {f"{model.base_model_prefix}.{name}.": part.base_model.state_dict()}
        if auto_class is AutoModelForCausalLM:
            taken["lm_head."] = part.lm_head.state_dict()
        tensors = {prefix + key: tensor for prefix, state in taken.items() for key, tensor in state.items()}
        model.load_state_dict(tensors, strict=False)
        given |= set(tensors)
    if new := sorted(set(model.state_dict()) - given):
        logger.warning("Of %s and %s, starts anew: %s", *paths.values(), ", ".join(new))
    return model


def check_same_vocabulary(paths: dict[str, str]) -> None:
    """Raises InputError where the tokenizers of the two parts do not number the same tokens alike."""
    encoder, decoder = (load_tokenizer(path).get_vocab() for path in paths.values())
    if encoder == decoder:
        return
    name = next(iter(sorted(encoder.items() ^ decoder.items(), key=lambda each: (each[1], each[0]))))[0]
    numbers = [vocabulary.get(name, "missing") for vocabulary in (encoder, decoder)]
    raise InputError(
        f"decoder_name_or_path: the vocabulary of {paths['decoder']} is not that of {paths['encoder']}: "
        f"{len(decoder)} and {len(encoder)} tokens; {name!r} is {numbers[1]} and {numbers[0]}"
    )


def part_config(part: str, path: str) -> PretrainedConfig:
    """The configuration of a saved encoder or decoder. Raises InputError for another architecture."""
    config = load_config(path, f"{part}_name_or_path")
    if architecture_of(type(config)) != part:
        raise InputError(f"{part}_name_or_path: {path} is {architecture_of(type(config))}, not {part}")
    return config


def load_part(auto_class: Any, path: str, config: PretrainedConfig, flag: str) -> PreTrainedModel:
    """A saved encoder or decoder as it stood alone. Raises InputError where it does not fit its configuration."""
    config = copy.deepcopy(config)
    if hasattr(config, "cross_attention_hidden_size"):
        config.cross_attention_hidden_size = None
    model, info = load_weights(auto_class, path, config, flag)
    check_loaded(path, model, info, training=True, flag=flag)
    return model


def overrides_of(arguments: ModelArguments, config_class: type[PretrainedConfig]) -> dict[str, Any]:
    """The overrides, checked; see check_overrides."""
    overrides = parse_pairs(arguments.config_overrides, "config_overrides")
    check_overrides(overrides, config_class)
    return overrides


def check_overrides(overrides: dict[str, Any], config_class: type[PretrainedConfig]) -> None:
    """Refuse to override what is no option of an architecture or of its parts.

    Raises:
        InputError: there is no such field, or it follows from something else, or a part is not given as a mapping.
    """
    parts = config_class.sub_configs
    valid = set().union(*(each.own_fields() for each in (config_class, *parts.values()))) - set(TOLD)
    for name, value in overrides.items():
        if name in TOLD:
            raise InputError(f"config_overrides: {name} is told by {TOLD[name]}")
        if name not in valid:
            raise InputError("config_overrides: " + unknown(f"option of {config_class.__name__}", name, sorted(valid)))
        if name in parts and not isinstance(value, dict):
            raise InputError(f"config_overrides: {name} must be as {{hidden_dropout: 0.1}}, but is {describe(value)}")
        if name in parts:
            check_overrides(value, parts[name])


@contextmanager
def configuration_errors() -> Iterator[None]:
    """Inside, an error of a configuration becomes an InputError: its fields are the user's options."""
    try:
        yield
    except (StrictDataclassError, ValueError) as error:
        raise InputError(str(error)) from error


def change_config(config: PretrainedConfig, changes: dict[str, Any]) -> None:
    """Set fields of a configuration; a field that an encoder-decoder itself has not is set in its parts.

    Raises:
        InputError: the values do not go together.
    """
    parts = parts_of(config)
    own = set(vars(config)) - set(config.sub_configs)
    for name, value in changes.items():
        if name in config.sub_configs:
            change_config(getattr(config, name), value)
            continue
        for owner in [config] if name in own else [part for part in parts if hasattr(part, name)]:
            setattr(owner, name, value)
    with configuration_errors():
        for each in (*parts, config):
            each.validate()


def check_head(config_class: type[PretrainedConfig], task: Task) -> None:
    """Raises InputError if an architecture has no head for the task."""
    if task.auto_class not in FAMILIES[config_class]:
        able = [name for name, config in ARCHITECTURES.items() if task.auto_class in FAMILIES[config]]
        name = architecture_of(config_class)
        raise InputError(f"architecture: {name} has no head for task {task.name}; these have: {', '.join(able)}")


def check_vocabulary(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raises InputError if the tokenizer knows more tokens than the model."""
    size = min(part.vocab_size for part in parts_of(config))
    if len(tokenizer) > size:
        raise InputError(f"{where}: vocab_size={size} is less than the {len(tokenizer)} entries of the tokenizer")
