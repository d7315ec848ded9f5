"""The model of a run: built from a recipe, loaded, or combined from a saved encoder and a saved decoder."""

import copy
import logging
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

from ..checkpoints.loading import check_loaded, is_adapter, load_config, load_weights
from ..configuration.checks import THRESHOLDS, unknown_name_message
from ..configuration.encoder_decoder import BlendEncoderDecoderConfig
from ..data.errors import InputError, describe, error_line, printable
from ..modeling.encoder import AffixEmbedding
from ..modeling.families import FAMILIES
from ..tasks.base import Task
from ..tasks.models import part_configs, position_limit, problem_type_of
from ..tasks.registry import TASKS
from ..tasks.sequence_classification import REGRESSION
from ..tokenization.loading import load_tokenizer
from .adapters import add_lora, load_adapter
from .arguments import DataArguments, ModelArguments
from .command_line import parse_pairs
from .generation import set_generation, set_target_language

logger = logging.getLogger(__name__)

# Config fields that are fitted to the outputs of a trained model, and their values before.
FITTED_FIELDS = {"calibration_temperature": None, **dict.fromkeys(THRESHOLDS), "abstain_score": "probability"}

# Config fields that the user cannot override, and what determines them.
DERIVED_FIELDS = {
    **dict.fromkeys(("num_labels", "id2label", "label2id", "problem_type"), "the data and --problem_type"),
    **dict.fromkeys(
        [f"{kind}_token_id" for kind in ("pad", "bos", "eos", "cls", "sep", "mask", "decoder_start")], "the tokenizer"
    ),
    "is_encoder_decoder": "the architecture",
    "tag_scheme": "the training data",
    **dict.fromkeys(FITTED_FIELDS, "what is fitted after training"),
}

# Config fields that must match the rows of a head.
LABEL_FIELDS = ("id2label", "label2id", "class_weights")


def architecture_of(config_class: type[PretrainedConfig]) -> str:
    return config_class.model_type.removeprefix("blend_").replace("_", "-")


ARCHITECTURES = {architecture_of(config_class): config_class for config_class in FAMILIES}


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids of the tokenizer's special tokens, by the name of their config field."""
    names = [f"{kind}_token_id" for kind in ("pad", "bos", "eos", "cls", "sep", "mask")]
    ids = {name: getattr(tokenizer, name, None) for name in names}
    return {name: value for name, value in ids.items() if value is not None}


def saved_labels(path: str) -> list[str]:
    """The label names of a saved model, in the order of their ids. Raises InputError if it cannot be loaded."""
    names = load_config(path).id2label or {}
    return [names[index] for index in sorted(names)]


def with_saved_problem_type(data_args: DataArguments, task: Task, path: str) -> DataArguments:
    """The arguments with the problem type of a saved model, if they have none.

    A single label, the default, is not set: it would read labels that look like numbers as names.
    """
    problem_type = problem_type_of(load_config(path))
    is_other = problem_type in ("multi_label_classification", "regression")
    if "problem_type" in task.options and data_args.problem_type is None and is_other:
        return replace(data_args, problem_type=problem_type)
    return data_args


def adds_special_tokens_to_targets(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> bool:
    """Whether targets get the tokenizer's special tokens, with which a converted checkpoint was trained."""
    return config.original_model_type is not None and tokenizer.num_special_tokens_to_add() > 0


def check_position_limit(config: PretrainedConfig, lengths: dict[str, int]) -> None:
    """Raises InputError if a length, given by the name of its option, exceeds the learned position embeddings."""
    name, limit = max(lengths, key=lambda key: lengths[key]), position_limit(config)
    if lengths[name] > limit:
        raise InputError(f"{name}: {lengths[name]} is more than max_position_embeddings={limit} of the model")


def set_model_max_length(
    tokenizer: PreTrainedTokenizerBase, model_args: ModelArguments, limit: float, trained: int
) -> None:
    """Set `model_max_length` of the tokenizer to the longest text that the model has been trained on.

    Args:
        tokenizer: of the run.
        model_args: tell whether the tokenizer came with a saved model, which may have been trained on longer texts.
        limit: longest sequence that the model can read, in tokens.
        trained: longest text of this run, in tokens.
    """
    before = 0
    if model_args.model_name_or_path and not model_args.tokenizer_name_or_path:
        before = tokenizer.model_max_length
    # If the length is unknown, transformers has a number above LARGE_INTEGER.
    tokenizer.model_max_length = max(trained, before if before <= min(limit, LARGE_INTEGER) else 0)


def make_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: Seq2SeqTrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    labels: list[str],
    of_rows: dict[str, Any],
) -> PreTrainedModel:
    """A new or saved model with the labels of this run. Label smoothing moves from the training arguments into it.

    Args:
        model_args: what the model is made from.
        data_args: the task.
        args: of the run.
        tokenizer: of the model.
        labels: the label names, in the order of their ids.
        of_rows: fields of the configuration that follow from the training rows.

    Raises:
        InputError: the model cannot be built or loaded.
    """
    task = TASKS[data_args.task]
    fields = {**task.config_fields(data_args.problem_type), **of_rows}
    if args.do_train:
        # They are of the weights before training.
        fields |= FITTED_FIELDS
    if labels:
        fields["id2label"] = dict(enumerate(labels))
        fields["label2id"] = {name: index for index, name in enumerate(labels)}
    smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0
    if args.do_train:
        if smoothing and data_args.problem_type == REGRESSION:
            raise InputError("label_smoothing_factor: a regression has no classes")
        fields["label_smoothing"] = smoothing
    given = (model_args, task, tokenizer, fields)
    if model_args.model_name_or_path:
        model = load_model(*given, args.do_train)
    elif model_args.encoder_name_or_path:
        model = combine_models(*given)
    else:
        config = build_config(*given)
        with override_errors():
            model = task.auto_class.from_config(config)
    if task.generates or task.has_sentinels:
        set_generation(model, data_args, args)
    if task.generates and args.do_train:
        set_target_language(model, tokenizer)
    if args.do_train:
        read_affixes(model, tokenizer)
        if not model.can_generate():
            # The Trainer would set them with a warning, which is of use only where they end what is generated.
            own = special_token_ids(tokenizer)
            for name in {"pad_token_id", "bos_token_id", "eos_token_id"} & own.keys():
                setattr(model.config, name, own[name])
    return model


def read_affixes(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tell a model with affixes the letters of its tokens. Raises InputError for a tokenizer that is not WordPiece."""
    for module in model.modules():
        if isinstance(module, AffixEmbedding):
            with override_errors():
                module.read_vocabulary(tokenizer)


@contextmanager
def override_errors() -> Iterator[None]:
    """Inside, the errors of building a configuration or a model become InputErrors: its fields are user options."""
    try:
        yield
    except InputError:
        raise
    except (StrictDataclassError, ValueError) as error:
        raise InputError(str(error)) from error
    except Exception as error:  # torch and the dataclass checks of huggingface_hub raise any exception
        raise InputError(f"config_overrides: the model cannot be built ({error_line(error)})") from error


def build_config(
    arguments: ModelArguments, task: Task, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> PretrainedConfig:
    """The configuration of a new model.

    Args:
        arguments: architecture, recipe and overrides.
        task: tells which heads fit.
        tokenizer: gives the vocabulary size and the special tokens.
        settings: other fields, such as labels.

    Raises:
        InputError: the architecture, the recipe or an option is unknown, the architecture has no head for the task, or
            values are invalid together.
    """
    name = arguments.architecture or task.architecture
    if name not in ARCHITECTURES:
        raise InputError(unknown_name_message("architecture", name, list(ARCHITECTURES)))
    config_class = ARCHITECTURES[name]
    check_head(config_class, task)
    fields = {"vocab_size": len(tokenizer), **special_token_ids(tokenizer), **settings}
    fields = {key: value for key, value in fields.items() if key in config_class.options()}
    overrides = parse_overrides(arguments, config_class)
    with override_errors():
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
    """A saved model with the head of the task. A new head, and the rows of new labels, are newly initialized.

    Args:
        arguments: path of the model, overrides, and the options of LoRA, which wraps the model.
        task: tells which head the model gets.
        tokenizer: must not have more tokens than the model.
        settings: config fields to change, such as labels.
        training: whether the model will be trained; if not, nothing may be newly initialized.

    Raises:
        InputError: the model cannot be loaded; a tensor of the base model is missing, unexpected or of another shape;
            it has another architecture; the tokenizer is too large.
    """
    path = arguments.model_name_or_path
    if arguments.lora_rank is not None and not training:
        raise InputError("lora_rank: nothing is trained; leave it out to evaluate a saved adapter")
    if training and is_adapter(path):
        raise InputError(
            f"model_name_or_path: {path} is an adapter, from which training cannot start; start from a whole model "
            "(--merge_adapter true saves one)"
        )
    check_saved(load_config(path), arguments, task, None if training else settings.get("problem_type"))
    config = load_config(path, auto_class=task.auto_class)
    own_labels, labels = head_labels(config, task, settings), [*settings.get("id2label", {}).values()]
    relabelled = own_labels not in (None, labels)
    if relabelled and not training:
        raise InputError(f"model_name_or_path: {path} has a head for other labels, and nothing is trained")
    # A model that only predicts keeps its labels.
    new_labels = settings.get("id2label", None if training else config.id2label)
    if config.class_weights and "class_weights" not in settings and new_labels != config.id2label:
        logger.warning("%s: dropped: class_weights, which are of other labels", path)
        settings = {"class_weights": None, **settings}
    changes = {**settings, **parse_overrides(arguments, type(config))}
    # The head is loaded as it was saved, and gets the labels of this run afterwards.
    later = {name: changes.pop(name) for name in LABEL_FIELDS if relabelled and name in changes}
    with override_errors():
        change_config(config, changes)
    check_vocabulary(config, tokenizer, f"model_name_or_path: {path}")
    if is_adapter(path):
        model = load_adapter(task.auto_class, path, config)
    else:
        model, info = load_weights(task.auto_class, path, config)
        check_loaded(path, model, info, training)
    if relabelled:
        relabel(model, own_labels, labels, path)
        with override_errors():
            change_config(model.config, later)
    if arguments.lora_rank is not None:
        return add_lora(model, arguments, task.auto_class, {*info["missing_keys"]})
    return model


def check_saved(config: PretrainedConfig, arguments: ModelArguments, task: Task, problem_type: str | None) -> None:
    """Raises InputError for a saved model of another architecture or problem_type, or without a head for the task."""
    path, name = arguments.model_name_or_path, architecture_of(type(config))
    if arguments.architecture not in (None, name):
        raise InputError(f"architecture: {arguments.architecture}, but model_name_or_path {path} is {name}")
    check_head(type(config), task)
    if problem_type != config.problem_type and None not in (problem_type, config.problem_type):
        raise InputError(f"problem_type: {problem_type}, but the model was trained for {config.problem_type}")


def head_labels(config: PretrainedConfig, task: Task, settings: dict[str, Any]) -> list[str] | None:
    """The labels of a saved head whose rows a head with other labels can keep.

    Returns:
        The labels in the order of the rows. None if the model has no head for the task or the settings have no labels;
        an empty list if the head changes between regression and classification.
    """
    head = FAMILIES[type(config)][task.auto_class].__name__
    if "id2label" not in settings or head not in (config.architectures or []):
        return None
    names = [config.id2label[index] for index in sorted(config.id2label)]
    # As in sequence_loss.
    was_regression = config.problem_type == "regression" or (config.problem_type is None and len(names) == 1)
    is_regression = settings.get("problem_type") == "regression"
    if was_regression and is_regression and len(names) == len(settings["id2label"]):
        # The outputs of a regression have no names of their own.
        return list(settings["id2label"].values())
    return [] if was_regression or is_regression else names


def relabel(model: PreTrainedModel, old: list[str], new: list[str], path: str) -> None:
    """Replace the labels of a classifier: rows of labels in both heads are kept, others are newly initialized.

    Args:
        model: has a head with the old labels.
        old: labels in the order of the old head's rows; empty if no row is to be kept.
        new: labels in the order of the new head's rows.
        path: of the model, for the log.
    """
    name = "score" if hasattr(model, "score") else "classifier"
    saved = getattr(model, name)
    head = nn.Linear(saved.in_features, len(new), bias=saved.bias is not None).to(saved.weight)
    model._init_weights(head)
    # transformers names class 3 LABEL_3 by default.
    rows = {label: known for label in new for known in (label, f"LABEL_{label}") if known in old}
    with torch.no_grad():
        for label, known in rows.items():
            head.weight[new.index(label)] = saved.weight[old.index(known)]
            if head.bias is not None:
                head.bias[new.index(label)] = saved.bias[old.index(known)]
    setattr(model, name, head)
    changes = {
        "kept": list(rows),
        "newly initialized": [label for label in new if label not in rows],
        "dropped": [label for label in old if label not in rows.values()],
    }
    parts = [f"{what}: {', '.join(map(printable, labels))}" for what, labels in changes.items() if labels]
    logger.warning("%s: labels %s", path, "; ".join(parts))


def combine_models(
    arguments: ModelArguments, task: Task, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> PreTrainedModel:
    """An encoder-decoder of a saved encoder and a saved decoder that were trained separately.

    Each keeps its embedding, and the decoder its lm_head. Cross-attention and the head of a classifier are newly
    initialized.

    Args:
        arguments: paths of the two models, and overrides.
        task: tells which head the model gets.
        tokenizer: must not have more tokens than either model.
        settings: config fields to change, such as labels.

    Raises:
        InputError: see load_model; or the vocabularies of the two differ.

    Source: Rothe et al. 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks".
    """
    paths = {"encoder": arguments.encoder_name_or_path, "decoder": arguments.decoder_name_or_path}
    check_same_vocabulary(paths)
    parts = {name: part_config(name, path) for name, path in paths.items()}
    tied = parts["decoder"].tie_word_embeddings
    with override_errors():
        config = BlendEncoderDecoderConfig(**parts, share_encoder_decoder_embeddings=False, tie_word_embeddings=tied)
    check_head(type(config), task)
    changes = {**settings, **parse_overrides(arguments, type(config))}
    with override_errors():
        change_config(config, changes)
    check_vocabulary(config, tokenizer, " and ".join(paths.values()))
    with override_errors():
        model = task.auto_class.from_config(config)
    has_lm_head = task.auto_class is AutoModelForSeq2SeqLM
    loaded: set[str] = set()
    for name, path in paths.items():
        auto_class = AutoModelForCausalLM if name == "decoder" and has_lm_head else AutoModel
        part = load_part(auto_class, path, getattr(config, name), f"{name}_name_or_path")
        states = {f"{model.base_model_prefix}.{name}.": part.base_model.state_dict()}
        if auto_class is AutoModelForCausalLM:
            states["lm_head."] = part.lm_head.state_dict()
        tensors = {prefix + key: tensor for prefix, state in states.items() for key, tensor in state.items()}
        model.load_state_dict(tensors, strict=False)
        loaded |= set(tensors)
    if new := sorted(set(model.state_dict()) - loaded):
        logger.warning("%s and %s: newly initialized: %s", *paths.values(), ", ".join(new))
    return model


def check_same_vocabulary(paths: dict[str, str]) -> None:
    """Raises InputError if the tokenizers of the two parts differ in a token or its id."""
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
    """A saved encoder or decoder without cross-attention. Raises InputError if it does not fit its configuration."""
    config = copy.deepcopy(config)
    if hasattr(config, "cross_attention_hidden_size"):
        config.cross_attention_hidden_size = None
    model, info = load_weights(auto_class, path, config, flag)
    check_loaded(path, model, info, training=True, flag=flag)
    return model


def parse_overrides(arguments: ModelArguments, config_class: type[PretrainedConfig]) -> dict[str, Any]:
    """The config overrides, parsed and checked; see check_overrides."""
    overrides = parse_pairs(arguments.config_overrides, "config_overrides")
    check_overrides(overrides, config_class)
    return overrides


def check_overrides(overrides: dict[str, Any], config_class: type[PretrainedConfig]) -> None:
    """Check that overrides are options of an architecture or of its parts.

    Raises:
        InputError: a field is unknown or determined by something else, or a part is not given as a mapping.
    """
    parts = config_class.sub_configs
    valid = set().union(*(each.own_fields() for each in (config_class, *parts.values()))) - set(DERIVED_FIELDS)
    for name, value in overrides.items():
        if name in DERIVED_FIELDS:
            raise InputError(f"config_overrides: {name} is determined by {DERIVED_FIELDS[name]}")
        if name not in valid:
            raise InputError(
                "config_overrides: " + unknown_name_message(f"option of {config_class.__name__}", name, sorted(valid))
            )
        if name in parts and not isinstance(value, dict):
            raise InputError(
                f"config_overrides: {name} must be a mapping such as {{hidden_dropout: 0.1}}, but is {describe(value)}"
            )
        if name in parts:
            check_overrides(value, parts[name])


def change_config(config: PretrainedConfig, changes: dict[str, Any]) -> None:
    """Set fields of a configuration. Fields that an encoder-decoder does not have itself are set in its parts.

    Raises:
        ValueError: values are invalid together.
    """
    parts = part_configs(config)
    own = set(vars(config)) - set(config.sub_configs)
    for name, value in changes.items():
        if name in config.sub_configs:
            change_config(getattr(config, name), value)
            continue
        for owner in [config] if name in own else [part for part in parts if hasattr(part, name)]:
            setattr(owner, name, value)
    for each in (*parts, config):
        each.validate()


def check_head(config_class: type[PretrainedConfig], task: Task) -> None:
    """Raises InputError if an architecture has no head for the task."""
    if task.auto_class not in FAMILIES[config_class]:
        suitable = [name for name, config in ARCHITECTURES.items() if task.auto_class in FAMILIES[config]]
        name = architecture_of(config_class)
        raise InputError(f"architecture: {name} has no head for task {task.name}; these have: {', '.join(suitable)}")


def check_vocabulary(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raises InputError if the tokenizer has more tokens than the model."""
    size = min(part.vocab_size for part in part_configs(config))
    if len(tokenizer) > size:
        raise InputError(f"{where}: vocab_size={size} is less than the {len(tokenizer)} entries of the tokenizer")
