"""From a checkpoint of another architecture to a model of ours."""

import copy
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from ..configuration.base import RecipeConfig
from ..modeling.families import FAMILIES
from .checkpoint import Checkpoint
from .origin import Origin, read_files
from .registry import ARCHITECTURES
from .table import Architecture, ConversionError, Head, match
from .tensors import check_complete, our_tensors

logger = logging.get_logger(__name__)

# Where a repository's files are; as in from_pretrained.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# Masks, positions, frequencies and marks that older versions of transformers and fairseq saved; nothing reads them.
IGNORED = re.compile(
    r"(^|\.)((position|token_type)_ids|(attn|attention)\.(masked_)?bias|inv_freq|version|_float_tensor)$"
)
# What the labels are stands in both configurations.
LABELS = ("num_labels", "id2label", "label2id", "problem_type")


def from_original(
    source: str | Path,
    auto_class: type = AutoModel,
    *,
    model_type: str | None = None,
    dtype: torch.dtype | str | None = None,
    gguf_file: str | None = None,
    **overrides: Any,
) -> PreTrainedModel:
    """A model of ours that computes what another architecture's checkpoint computes.

    Args:
        source: a directory or a repository of the Hub with safetensors, pytorch_model.bin or a GGUF file.
        auto_class: which head; AutoModel for none. One that the checkpoint does not have starts from random numbers.
        model_type: the architecture, where config.json does not say it.
        dtype: of the weights. None: float32 where the checkpoint's are of half precision, else as they are.
        gguf_file: the file's name, for a checkpoint in GGUF.
        overrides: fields of our configuration that differ (`hidden_dropout=0.2`), what the labels are, and options
            of from_pretrained that say where files are (`revision`, `token`, `cache_dir` …).

    Returns:
        The model, in evaluation mode. It keeps what did not go through (origin.py), so that to_original can give it
        back.

    Raises:
        ConversionError: an architecture, a head or a value that is not supported, weights that do not fit.
        OSError: there is no such directory or repository, or no config.json.
        ValueError: an override that is no field, or has a wrong value.
    """
    hub = {name: overrides.pop(name) for name in HUB_OPTIONS if name in overrides}
    labels = {name: overrides.pop(name) for name in LABELS if name in overrides}
    gguf = {} if gguf_file is None else {"gguf_file": gguf_file}
    given, _ = PreTrainedConfig.get_config_dict(source, **gguf, **hub)
    if commit := given.pop("_commit_hash", None):
        hub["revision"] = commit  # whatever is pushed meanwhile, all is of one state
    architecture = architecture_of(source, given, model_type)
    our_class, head = model_class(architecture, auto_class)
    their_config = architecture.their_config_class.from_dict(without_type(given), **labels)
    config = our_config(architecture, head, source, their_config, overrides)

    checkpoint = None if gguf else Checkpoint(source, **hub)
    stock, origin, missing = load_stock(architecture, head, source, their_config, given, checkpoint, gguf, hub)
    if config.tie_word_embeddings and not has_tied_head(stock):
        # transformers ties nothing that the checkpoint has twice and differently, whatever config.json says.
        config = our_config(architecture, head, source, their_config, {**overrides, "tie_word_embeddings": False})
    wanted = torch.promote_types(origin.dtype, torch.float32) if dtype is None else as_dtype(dtype)
    generation = stock.generation_config if stock.can_generate() else None
    tensors = stock.state_dict()
    del stock
    ours, kept = our_tensors(architecture, head, tensors, their_config, prefix_of(our_class), missing, wanted)
    origin.tensors |= kept
    check_complete(our_class, config, ours, head if auto_class.__name__ in architecture.heads else None)
    with quiet():
        model = our_class.from_pretrained(None, config=config, state_dict=ours, dtype=wanted, trust_remote_code=False)
    if generation is not None and model.can_generate():
        model.generation_config = copy.deepcopy(generation)
    model.origin = origin
    return model.eval()


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype by its name, as from_pretrained takes it. Raises ConversionError for a name of none."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ConversionError(f"dtype={dtype!r} is no dtype of torch")
    return found


def our_config(
    architecture: Architecture,
    head: Head,
    source: str | Path,
    their_config: PreTrainedConfig,
    overrides: dict[str, Any],
) -> RecipeConfig:
    """Our configuration of a checkpoint. Raises ConversionError, in one line, for what ours cannot compute."""
    try:
        return architecture.read_config(their_config, head, overrides)
    except (ValueError, StrictDataclassError) as error:
        raise ConversionError(f"{source}: {' '.join(str(error).split())}") from error


def without_type(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json for the class that it is of, which says its model_type itself."""
    return {name: value for name, value in config.items() if name != "model_type"}


def architecture_of(source: str | Path, config: dict[str, Any], model_type: str | None) -> Architecture:
    """The table for a checkpoint.

    Raises:
        ConversionError: config.json says no architecture, another one than is given, or one that is not supported.
    """
    said = config.get("model_type")
    if said and model_type and said != model_type:
        raise ConversionError(f"{source}: config.json says model_type={said!r}, not {model_type!r}")
    name = said or model_type
    if name is not None and not isinstance(name, str):
        raise ConversionError(f"{source}: config.json says model_type={name!r}, which is no name")
    if not name:
        raise ConversionError(f"{source}: config.json says no model_type; give model_type=, {supported('')}")
    if name in {config_class.model_type for config_class in FAMILIES}:
        raise ConversionError(f"{source} is a model of this package already: open it by from_pretrained")
    if name not in ARCHITECTURES:
        raise ConversionError(f"{source}: model_type={name!r} is not supported; {supported(name)}")
    if config.get("auto_map"):
        logger.warning(
            "%s has code of its own (auto_map), which is not run: it is read as transformers' %s", source, name
        )
    if config.get("quantization_config"):
        raise ConversionError(f"{source} is quantized (quantization_config), which is not supported")
    return ARCHITECTURES[name]


def supported(name: str) -> str:
    """The architectures that are supported, the nearest to a name first."""
    nearest = get_close_matches(name, list(ARCHITECTURES), n=len(ARCHITECTURES), cutoff=0.0)
    return f"supported, nearest first: {', '.join(nearest)}"


def model_class(architecture: Architecture, auto_class: type) -> tuple[type[PreTrainedModel], Head]:
    """Our class for an Auto class, and the stock head whose weights it takes: its own, or the base model's.

    Raises:
        ConversionError: ours has no such head.
    """
    models = FAMILIES[architecture.config_class]
    if auto_class not in models:
        valid = ", ".join(each.__name__ for each in models)
        name = getattr(auto_class, "__name__", repr(auto_class))
        raise ConversionError(f"{architecture.model_type}: {name} is not supported; supported are {valid}")
    return models[auto_class], architecture.heads.get(auto_class.__name__, architecture.heads["AutoModel"])


def prefix_of(our_class: type[PreTrainedModel]) -> str:
    """What the base model's tensors begin with in a class of ours."""
    is_base = our_class is FAMILIES[our_class.config_class][AutoModel]
    return "" if is_base else f"{our_class.base_model_prefix}."


@contextmanager
def quiet() -> Iterator[None]:
    """Without bars, and transformers' report on names that are missing or left over: ours says what became of them."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def load_stock(
    architecture: Architecture,
    head: Head,
    source: str | Path,
    config: PreTrainedConfig,
    given: dict[str, Any],
    checkpoint: Checkpoint | None,
    gguf: dict[str, str],
    hub: dict[str, Any],
) -> tuple[PreTrainedModel, Origin, set[str]]:
    """The stock model in the checkpoint's own dtype, what is kept of the checkpoint, and the names that it lacks.

    transformers reads every form of a checkpoint: shards, old names, with and without the base model's prefix.

    Raises:
        ConversionError: weights that do not fit config.json, or have no place.
    """
    if checkpoint is not None:
        checkpoint.check_collisions(head.stock_class.base_model_prefix)
    dtype = torch.float32 if checkpoint is None else checkpoint.dtype()
    with quiet():
        stock, report = head.stock_class.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which raises, and names none of them
            trust_remote_code=False,
            **gguf,
            **hub,
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        raise ConversionError(f"{source}: {name} has the shape {tuple(found)}, by config.json {tuple(wanted)}")
    origin = Origin(architecture, given, dtype, read_files(source, **hub))
    sort_missing(architecture, head, source, report["missing_keys"])
    sort_unexpected(origin, head, source, checkpoint, report["unexpected_keys"])
    return stock, origin, set(report["missing_keys"])


def has_tied_head(stock: PreTrainedModel) -> bool:
    """Whether a language-model head, if there is one, is the embedding's matrix."""
    output = stock.get_output_embeddings()
    if output is None:
        return True
    pointers = [tensor.data_ptr() for tensor in stock.state_dict().values()]
    return pointers.count(output.weight.data_ptr()) > 1


def sort_missing(architecture: Architecture, head: Head, source: str | Path, names: Collection[str]) -> None:
    """Say which part of the head is new. Raises ConversionError where a tensor of the body is missing."""
    new = [name for name in sorted(names) if match(head.patterns, name)]
    rest = [name for name in sorted(names) if name not in new and not architecture.is_aside(name, head)]
    if rest:
        raise ConversionError(f"{source} lacks {rest[0]!r}{more(rest)}")
    if new:
        logger.warning("%s has no %s: new, to be trained", source, ", ".join(new))


def sort_unexpected(
    origin: Origin, head: Head, source: str | Path, checkpoint: Checkpoint | None, names: Collection[str]
) -> None:
    """Keep aside what comes back, and say what is left out: other heads.

    Raises:
        ConversionError: a tensor of the body has no place in ours.
    """
    architecture = origin.architecture
    names = [name for name in names if not IGNORED.search(name)]
    prefix = f"{head.stock_class.base_model_prefix}."
    aside = {name for name in names if architecture.is_aside(name, head)}
    if checkpoint is not None:
        for name, tensor in checkpoint.tensors(sorted(aside)).items():
            origin.tensors[architecture.base_name(name, head)] = tensor
    # Where the body's names have a prefix, a name without it is of a head.
    has_prefix = checkpoint is not None and any(name.startswith(prefix) for name in checkpoint.files)
    others = sorted(set(names) - aside)
    heads = [
        name
        for name in others
        if (has_prefix and not name.startswith(prefix))
        or any(match(other.patterns, name) for other in architecture.heads.values())
    ]
    if lost := [name for name in others if name not in heads]:
        raise ConversionError(f"{source}: {lost[0]!r}{more(lost)} has no place in a {architecture.model_type}")
    if heads:
        logger.warning("%s: left out, of another head: %s", source, ", ".join(heads))


def more(names: list[str]) -> str:
    return f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
