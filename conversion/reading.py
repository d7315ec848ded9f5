"""From a checkpoint of another architecture to a model of ours."""

import copy
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from ..configuration.base import RecipeConfig
from ..modeling.families import FAMILIES
from ..modeling.positions import SinusoidalPositions
from .checkpoint import Checkpoint
from .origin import Origin, read_files
from .registry import ARCHITECTURES
from .table import Architecture, ConversionError, Head, match

logger = logging.get_logger(__name__)

# Where a repository's files are; as in from_pretrained.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# Masks, positions, frequencies and marks that older versions of transformers and fairseq saved; nothing reads them.
IGNORED = re.compile(
    r"(^|\.)((position|token_type)_ids|(attn|attention)\.(masked_)?bias|inv_freq|version|_float_tensor)$"
)
# A table in half precision is rounded by no more.
SINUSOID_ERROR = 0.01
# What the labels are stands in both configurations.
LABELS = ("num_labels", "id2label", "label2id", "problem_type")


def from_original(
    source: str | Path,
    auto_class: type = AutoModel,
    *,
    model_type: str | None = None,
    dtype: torch.dtype | None = None,
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
    architecture = architecture_of(source, given, model_type)
    our_class, head = model_class(architecture, auto_class)
    their_config = architecture.their_config_class.from_dict(without_type(given), **labels)
    config = architecture.read_config(their_config, head, overrides)

    checkpoint = None if gguf else Checkpoint(source, **hub)
    if checkpoint is not None:
        checkpoint.check_collisions(head.stock_class.base_model_prefix)
    stock, report = load_stock(head, source, their_config, **gguf, **hub)
    origin = Origin(architecture, given, stock.dtype, read_files(source, **hub))
    sort_missing(architecture, head, source, report["missing_keys"])
    sort_unexpected(origin, head, source, checkpoint, report["unexpected_keys"])
    wanted = torch.promote_types(stock.dtype, torch.float32) if dtype is None else dtype
    generation = stock.generation_config if stock.can_generate() else None
    tensors = stock.state_dict()
    del stock
    ours = our_tensors(origin, head, tensors, their_config, prefix_of(our_class), report["missing_keys"], wanted)
    check_shapes(our_class, config, ours)
    with quiet():
        model = our_class.from_pretrained(None, config=config, state_dict=ours, dtype=wanted)
    if generation is not None and model.can_generate():
        model.generation_config = copy.deepcopy(generation)
    model.origin = origin
    return model.eval()


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
    if not name:
        raise ConversionError(f"{source}: config.json says no model_type; give model_type=, {supported('')}")
    if name in {config_class.model_type for config_class in FAMILIES}:
        raise ConversionError(f"{source} is a model of this package already: open it by from_pretrained")
    if name not in ARCHITECTURES:
        raise ConversionError(f"{source}: model_type={name!r} is not supported; {supported(name)}")
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
    head: Head, source: str | Path, config: PreTrainedConfig, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The stock model in the checkpoint's own dtype, and which names were missing or left over.

    transformers reads every form of a checkpoint: shards, old names, with and without the base model's prefix.

    Raises:
        ConversionError: the weights have other shapes than config.json says.
    """
    with quiet():
        stock, report = head.stock_class.from_pretrained(
            source,
            config=config,
            dtype="auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which raises, and names none of them
            trust_remote_code=False,
            **options,
        )
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise ConversionError(f"{source}: {name} has the shape {tuple(found)}, by config.json {tuple(wanted)}")
    return stock, report


def sort_missing(architecture: Architecture, head: Head, source: str | Path, names: Collection[str]) -> None:
    """Say which part of the head is new. Raises ConversionError where a tensor of the body is missing."""
    new = [name for name in sorted(names) if match(head.patterns, name)]
    rest = [name for name in sorted(names) if name not in new and not is_aside(architecture, head, name)]
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
    aside = {name for name in names if is_aside(architecture, head, name)}
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


def is_aside(architecture: Architecture, head: Head, name: str) -> bool:
    """Whether a tensor of theirs has no place in ours, but comes back."""
    body = architecture.base_name(name, head)
    of_body = any(body.startswith(f"{each}.") for each in architecture.aside + architecture.sinusoids)
    return of_body or any(name.startswith(f"{each}.") for each in architecture.aside_heads)


def our_weights(stock: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a stock model by our names, for a model of ours that computes the same.

    Raises:
        ConversionError: its class is in no table.
    """
    for architecture in ARCHITECTURES.values():
        for head in architecture.heads.values():
            if type(stock) is head.stock_class:
                origin = Origin(architecture, {}, stock.dtype)
                our_prefix = "" if architecture.is_base(head) else "model."
                return our_tensors(origin, head, stock.state_dict(), stock.config, our_prefix)
    raise ConversionError(f"{type(stock).__name__} is not supported; see python -m seqblend.conversion --list")


def our_tensors(
    origin: Origin,
    head: Head,
    tensors: dict[str, torch.Tensor],
    config: PreTrainedConfig,
    our_prefix: str,
    missing: Collection[str] = (),
    dtype: torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """Our tensors from those of a stock model; what does not go through is kept.

    Args:
        origin: where that is kept.
        head: of the stock model.
        tensors: theirs, by their names; emptied on the way, so that a tensor of which ours is a copy is let go.
        config: their configuration.
        our_prefix: of the base model's tensors in ours.
        missing: the names that were not in the checkpoint.
        dtype: of ours; None: as theirs.

    Raises:
        ConversionError: a tensor has no place, two have one, or a table of sinusoids holds something else.
    """
    architecture = origin.architecture
    ours: dict[str, torch.Tensor] = {}
    sources: dict[str, tuple[str, int]] = {}
    places = {name: architecture.place(name, head, our_prefix) for name in tensors}
    # What may be tied comes last, so that it is known to what.
    aliases = {name for name, place in places.items() if place is not None and place[1].is_alias}
    for name in sorted(places, key=aliases.__contains__):
        tensor, place = tensors.pop(name), places[name]
        if place is None:
            keep(origin, head, name, tensor, is_new=name in missing)
            continue
        names, operation = place
        body = architecture.base_name(name, head)
        if operation.skipped_rows is not None:
            origin.tensors[body] = tensor[: operation.skipped_rows(config)].clone()
        for our_name, part in zip(names, operation.read(tensor, config), strict=True):
            # Tied tensors are one under several names.
            other, pointer = sources.setdefault(our_name, (name, tensor.data_ptr()))
            if pointer == tensor.data_ptr():
                ours[our_name] = part if dtype is None else part.to(dtype)
            elif operation.is_alias:
                origin.tensors[body] = tensor.clone()
            else:
                raise ConversionError(f"{other!r} and {name!r} differ, and ours has one tensor for both: {our_name}")
    return ours


def check_shapes(our_class: type[PreTrainedModel], config: RecipeConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Raises ConversionError for a tensor that has another shape than in a model of this configuration."""
    with torch.device("meta"):
        wanted = our_class(config).state_dict()
    for name, tensor in tensors.items():
        if name not in wanted:
            raise ConversionError(f"{name} is in the checkpoint, and in no model of this configuration")
        if wanted[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, by the configuration {tuple(wanted[name].shape)}"
            raise ConversionError(f"{name} has the shape {shapes}: an override changes it")


def keep(origin: Origin, head: Head, name: str, tensor: torch.Tensor, *, is_new: bool) -> None:
    """Keep aside a tensor without a place. Raises ConversionError where it is none that comes back."""
    architecture = origin.architecture
    if not is_aside(architecture, head, name):
        raise ConversionError(f"{name!r} has no place in ours")
    body = architecture.base_name(name, head)
    if any(body.startswith(f"{each}.") for each in architecture.sinusoids):
        check_sinusoids(name, tensor)
    elif is_new:
        return
    origin.tensors[body] = tensor.clone()


def check_sinusoids(name: str, table: torch.Tensor) -> None:
    """Raises ConversionError where a table of positions (P, E) is not what ours computes, but for rounding."""
    rows, width = table.shape
    positions = torch.arange(rows)[None]
    computed = SinusoidalPositions(rows, width)(torch.zeros(1, rows, width), positions)[0]
    difference = (computed - table.float()).abs().max().item()
    if difference > SINUSOID_ERROR:
        raise ConversionError(f"{name!r} differs from the sinusoids that ours computes, by up to {difference:.3g}")
