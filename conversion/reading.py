"""Conversion of a checkpoint of another architecture to a model of seqblend."""

import copy
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, cached_file, find_adapter_config_file, logging

from ..configuration.recipe_config import RecipeConfig
from ..data.errors import loading_error_line
from ..modeling.families import FAMILIES
from .checkpoint import Checkpoint, is_buffer
from .origin import Origin, find_transformer, read_files
from .registry import ARCHITECTURES, architecture_of
from .table import Architecture, ConversionError, Head, match
from .tensors import TensorConverter, check_complete

logger = logging.get_logger(__name__)

# Options of from_pretrained that say where files are found.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# The configuration classes of seqblend by their names in config.json.
MODEL_TYPES = {config_class.model_type: config_class for config_class in FAMILIES}
# Options that define the labels: keys of the original configuration.
LABELS = ("num_labels", "id2label", "label2id", "problem_type")


@dataclass
class LoadReport:
    """What a checkpoint lacks, and what is ignored.

    Args:
        initialized: tensors of the head that are initialized randomly, by the names of seqblend: the checkpoint does
            not have them, or has those of another classifier under these names.
        ignored: tensors of other heads, by their original names.
    """

    initialized: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def from_original(
    source: str | Path,
    auto_class: type = AutoModel,
    *,
    model_type: str | None = None,
    dtype: torch.dtype | str | None = None,
    gguf_file: str | None = None,
    ignore_mismatched_sizes: bool = False,
    **overrides: Any,
) -> PreTrainedModel:
    """Convert a checkpoint of another architecture to a model of seqblend with the same outputs.

    Args:
        source: a directory or a repository of the Hub with safetensors, pytorch_model.bin or a GGUF file.
        auto_class: selects the head; AutoModel for none. A head that the checkpoint does not have is initialized
            randomly.
        model_type: the architecture, if config.json does not name it.
        dtype: of the weights. None: float32 for a checkpoint in half precision, else the dtype of the checkpoint.
        gguf_file: the name of the file, for a checkpoint in GGUF.
        ignore_mismatched_sizes: newly initialize the projection to the labels if the checkpoint has another number of
            labels. No other shape may differ.
        overrides: other values for fields of the configuration (`hidden_dropout=0.2`), the labels, and options of
            from_pretrained that say where files are found (`revision`, `token`, `cache_dir` …).

    Returns:
        The model, in evaluation mode. Its attribute `origin` holds the parts of the checkpoint without counterpart,
        which to_original writes back.

    Raises:
        ConversionError: an architecture, a head or a value is not supported, or weights do not fit.
        OSError: there is no such directory or repository, or no config.json.
        ValueError: an override has an unknown name or a wrong value.
    """
    hub = {name: overrides.pop(name) for name in HUB_OPTIONS if name in overrides}
    labels = {name: overrides.pop(name) for name in LABELS if name in overrides}
    if "id2label" in labels:
        # transformers keeps the label2id of config.json.
        labels.setdefault("label2id", {label: int(index) for index, label in labels["id2label"].items()})
    original = Original.open(source, model_type, gguf_file, **hub)
    config = original.convert_config(auto_class, labels, overrides)
    new_labels = ignore_mismatched_sizes and config.num_labels != original.stock_config().num_labels
    model, report = original.convert(auto_class, config, dtype, new_labels=new_labels)
    # As from_pretrained: peft stores this name with an adapter.
    model.name_or_path = model.config.name_or_path = str(source)
    if new := report.initialized:
        logger.warning("%s has no %s: newly initialized, train the model before use", source, ", ".join(new))
    if report.ignored:
        logger.warning("%s: tensors of other heads are ignored: %s", source, ", ".join(report.ignored))
    return model


@dataclass(frozen=True)
class Original:
    """A checkpoint of another architecture.

    Args:
        source: a directory or a repository of the Hub.
        architecture: of the checkpoint.
        config: the content of config.json.
        hub: options of from_pretrained that say where files are found.
        gguf: the option gguf_file, for a checkpoint in GGUF; else empty.
    """

    source: str | Path
    architecture: Architecture
    config: dict[str, Any]
    hub: dict[str, Any]
    gguf: dict[str, str]

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The contents of its other files that are preserved, by path."""
        return read_files(self.source, **self.hub)

    @classmethod
    def open(
        cls, source: str | Path, model_type: str | None = None, gguf_file: str | None = None, **hub: Any
    ) -> "Original":
        """Read config.json. Raises ConversionError for an architecture that is not supported, OSError without file."""
        gguf = {} if gguf_file is None else {"gguf_file": gguf_file}
        config = read_original_config(source, gguf, hub)
        return cls(source, find_architecture(source, config, model_type), config, hub, gguf)

    def stock_config(self, **labels: Any) -> PreTrainedConfig:
        """The original configuration, with the labels of the caller if there are any. Raises ConversionError."""
        config = {name: value for name, value in self.config.items() if name != "model_type"}
        if not isinstance(config.get("id2label") or {}, dict):
            raise ConversionError("id2label must be an object: the name of each label by its number")
        return self.architecture.original_config_class.from_dict(config, **labels)

    def saved_head(self) -> Any:
        """The Auto class of the head that config.json names; None if it names none that is supported."""
        name = self.architecture.named_head(self.config.get("architectures"))
        return None if name is None else getattr(transformers, name)

    def has_other_head(self, auto_class: type) -> bool:
        """Whether config.json names another head, for whose labels the checkpoint has another projection.

        BERT's sequence and token classifiers use the same name for it, as those of Llama do.
        """
        return self.saved_head() not in (None, auto_class)

    def convert_config(
        self, auto_class: type, labels: dict[str, Any] | None = None, overrides: dict[str, Any] | None = None
    ) -> RecipeConfig:
        """The configuration of seqblend, for a model with the head of an Auto class.

        Args:
            auto_class: selects the head.
            labels: keys of LABELS; default: those of the checkpoint.
            overrides: other values for fields of the configuration.

        Raises:
            ConversionError: a head or a value is not supported; the message names the source, in one line.
        """
        _, head = find_classes(self.architecture, auto_class)
        try:
            config = self.architecture.read_config(self.stock_config(**labels or {}), head, overrides)
            if "Classification" in auto_class.__name__:
                check_labels(config)
            return config
        except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
            raise ConversionError(f"{self.source}: {' '.join(str(error).split())}") from error

    def convert(
        self,
        auto_class: type,
        config: RecipeConfig,
        dtype: torch.dtype | str | None = None,
        *,
        new_labels: bool = False,
    ) -> tuple[PreTrainedModel, LoadReport]:
        """Convert the weights.

        Args:
            auto_class: selects the head.
            config: from convert_config, with changes that do not affect the shapes of tensors. Changed here if the
                checkpoint has its own tensor for the language-model head.
            dtype: see from_original.
            new_labels: whether the projection to the labels is newly initialized even if the checkpoint has one.

        Returns:
            The model, in evaluation mode, and what the checkpoint lacks.

        Raises:
            ConversionError: weights do not fit.
        """
        architecture, (model_class, head) = self.architecture, find_classes(self.architecture, auto_class)
        new_labels = new_labels or self.has_other_head(auto_class)
        stock_config = self.stock_config(**{name: getattr(config, name) for name in ("id2label", "label2id")})
        stock, origin, missing, report = load_stock(self, head, stock_config, new_labels)
        if config.tie_word_embeddings and not has_tied_head(stock):
            # Like transformers: two different tensors in the checkpoint are not tied, even if config.json says so.
            setattr(config, architecture.tying_field, False)
        dtype = torch.promote_types(origin.dtype, torch.float32) if dtype is None else as_dtype(dtype)
        generation = stock.generation_config if stock.can_generate() else None
        tensors = stock.state_dict()
        del stock
        converter = TensorConverter(architecture, head, stock_config, base_prefix(model_class), missing, dtype)
        state_dict, preserved = converter.convert(tensors)
        origin.tensors |= preserved
        check_shared_embeddings(self.source, config, state_dict, base_prefix(model_class))
        is_known = auto_class.__name__ in architecture.heads
        report.initialized += check_complete(model_class, config, state_dict, head if is_known else None)
        if new_labels:
            state_dict = {name: tensor for name, tensor in state_dict.items() if not is_projection(name)}
        with quiet():
            model = model_class.from_pretrained(
                None, config=config, state_dict=state_dict, dtype=dtype, trust_remote_code=False
            )
        if generation is not None and model.can_generate():
            model.generation_config = copy.deepcopy(generation)
        model.origin = origin
        return model.eval(), report


def read_original_config(source: str | Path, gguf: dict[str, str], hub: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json.

    Args:
        source: of the checkpoint.
        gguf: the name of its GGUF file, if it has one.
        hub: options that say where files are found. A folder of the transformer, and the commit, are added: all files
            come from one commit, even if somebody pushes meanwhile.

    Raises:
        ConversionError: config.json or modules.json is damaged, or there is an adapter.
        OSError: there is no such directory or repository, or no config.json.
    """
    if not gguf and not hub.get("subfolder") and (folder := find_transformer(source, **hub)):
        hub["subfolder"] = folder
    check_whole_model(source, gguf, hub)
    try:
        config_dict, _ = PreTrainedConfig.get_config_dict(source, **gguf, **hub)
    except (AttributeError, TypeError) as error:  # transformers takes the content for an object
        raise ConversionError(f"{source}: config.json is damaged ({error})") from error
    if not isinstance(config_dict, dict):
        raise ConversionError(f"{source}: config.json must hold an object, but is a {type(config_dict).__name__}")
    if commit := config_dict.pop("_commit_hash", None):
        hub["revision"] = commit
    return config_dict


def check_whole_model(source: str | Path, gguf: dict[str, str], hub: dict[str, Any]) -> None:
    """Refuse an adapter, alone or beside a whole model. Arguments are those of read_original_config.

    transformers adds the adapter to the whole model beside it, or to the base model that the adapter names.

    Raises:
        ConversionError: there is an adapter.
        OSError: there is no such directory or repository, or no config.json.
    """
    file = cached_file(source, CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **hub) if not gguf else None
    has_adapter = find_adapter_config_file(str(source), **hub) is not None
    if file is None and not gguf:
        if has_adapter:
            raise ConversionError(
                f"{source} has {ADAPTER_CONFIG_NAME} and no {CONFIG_NAME}: it is an adapter; merge it into its base "
                "model first"
            )
        # transformers gives the same answer for a file that is missing and for a Hub that is not reached.
        raise OSError(f"{source} has no {CONFIG_NAME}{'' if Path(source).exists() else ', or the Hub is not reached'}")
    if has_adapter:
        raise ConversionError(
            f"{source} holds a whole model ({CONFIG_NAME}) and an adapter ({ADAPTER_CONFIG_NAME}), which transformers "
            "would load, too; move one of them to another directory"
        )


def check_labels(config: RecipeConfig) -> None:
    """Raises ConversionError if two labels have one name: the scores of an answer are by name."""
    if twice := [name for name, count in Counter(config.id2label.values()).items() if count > 1]:
        raise ConversionError(f"id2label has the name {twice[0]!r} twice; give each its own name in config.json")


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype, or the dtype with this name. Raises ConversionError for an unknown name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ConversionError(f"dtype={dtype!r} is no dtype of torch")
    return found


def find_architecture(source: str | Path, config: dict[str, Any], model_type: str | None) -> Architecture:
    """The architecture of a checkpoint.

    Args:
        source: of the checkpoint, for messages.
        config: the content of config.json.
        model_type: as the caller gave it, or None.

    Raises:
        ConversionError: config.json names no architecture, another one than `model_type`, or an unsupported one.
    """
    found = config.get("model_type")
    if found and model_type and found != model_type:
        raise ConversionError(f"{source}: config.json has model_type={found!r}, not {model_type!r}")
    name = found or model_type
    if name is not None and not isinstance(name, str):
        raise ConversionError(f"{source}: config.json has model_type={name!r}, which is no name")
    if not name:
        raise ConversionError(f"{source}: config.json has no model_type; give model_type=, {list_supported('')}")
    if is_own(config):
        raise ConversionError(f"{source} is already a model of seqblend: load it with from_pretrained")
    architecture = architecture_of(config | {"model_type": name})
    if architecture is None:
        raise ConversionError(f"{source}: model_type={name!r} is not supported; {list_supported(name)}")
    if config.get("auto_map"):
        logger.warning_once(
            "%s has custom code (auto_map), which is not run: it is loaded as %s of transformers", source, name
        )
    if config.get("quantization_config"):
        raise ConversionError(f"{source} is quantized (quantization_config), which is not supported")
    return architecture


def is_own(config: dict[str, Any]) -> bool:
    """Whether the content of a config.json is that of a model of seqblend."""
    return str(config.get("model_type")) in MODEL_TYPES


def list_supported(name: str) -> str:
    """The supported architectures, the nearest to a name first."""
    names = list(dict.fromkeys(each.model_type for each in ARCHITECTURES.values()))
    nearest = get_close_matches(name, names, n=len(names), cutoff=0.0)
    return f"supported, nearest first: {', '.join(nearest)}"


def find_classes(architecture: Architecture, auto_class: type) -> tuple[type[PreTrainedModel], Head]:
    """The model class of seqblend for an Auto class, and the stock class to load: with the same head, or without head.

    Raises:
        ConversionError: seqblend has no such head.
    """
    models = FAMILIES[architecture.config_class]
    if auto_class not in models:
        valid = ", ".join(each.__name__ for each in models)
        name = getattr(auto_class, "__name__", repr(auto_class))
        raise ConversionError(f"{architecture.model_type}: {name} is not supported; supported are {valid}")
    return models[auto_class], architecture.head_for(auto_class.__name__)


def auto_class_of(model: PreTrainedModel) -> Any:
    """The Auto class of a model of seqblend."""
    models = FAMILIES[type(model.config)]
    return next(auto_class for auto_class, model_class in models.items() if type(model) is model_class)


def base_prefix(model_class: type[PreTrainedModel]) -> str:
    """The prefix of the base model's tensors in a model class of seqblend."""
    is_base = model_class is FAMILIES[model_class.config_class][AutoModel]
    return "" if is_base else f"{model_class.base_model_prefix}."


@contextmanager
def quiet() -> Iterator[None]:
    """Disable progress bars and warnings of transformers: this package reports missing and unexpected tensors."""
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
    original: Original, head: Head, config: PreTrainedConfig, new_labels: bool
) -> tuple[PreTrainedModel, Origin, set[str], LoadReport]:
    """Load the stock model. transformers reads shards, old names, and names with and without the base prefix.

    Args:
        original: the checkpoint.
        head: the stock class to load.
        config: its configuration.
        new_labels: see Original.convert.

    Returns:
        The model in the checkpoint's dtype, the preserved parts of the checkpoint, the names of missing tensors, and
        what the checkpoint lacks.

    Raises:
        ConversionError: weights do not fit config.json, or have no counterpart in the stock class.
    """
    source, architecture = original.source, original.architecture
    checkpoint = None if original.gguf else Checkpoint(source, **original.hub)
    if checkpoint is not None:
        checkpoint.check_collisions(head.stock_class.base_model_prefix)
    dtype = torch.float32 if checkpoint is None else checkpoint.dtype()
    stock, report = open_stock(original, head, config, dtype)
    replaced = {name for name in stock.state_dict() if new_labels and projects_labels(head, name)}
    if mismatched := sorted(each for each in report["mismatched_keys"] if each[0] not in replaced):
        name, found, expected = mismatched[0]
        if projects_labels(head, name) and found[0] != expected[0]:
            raise ConversionError(
                f"{source} has {found[0]} labels, not {expected[0]}: ignore_mismatched_sizes=True gives it a new "
                f"projection to the labels in place of {name}"
            )
        raise ConversionError(f"{source}: {name} has the shape {tuple(found)}, by config.json {tuple(expected)}")
    origin = Origin(architecture, original.config, dtype, original.files)
    new = replaced | head_tensors(architecture, head, source, report["missing_keys"])
    initialized = sorted(
        {target for name in new if (found := match(head.patterns, name)) is not None for target in found[0]}
    )
    ignored = preserve_unexpected(origin, head, source, checkpoint, report["unexpected_keys"])
    return stock, origin, set(report["missing_keys"]), LoadReport(initialized, ignored)


def open_stock(
    original: Original, head: Head, config: PreTrainedConfig, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The stock model of a checkpoint, and the loading info of from_pretrained.

    Raises:
        ConversionError: transformers cannot build or load the model.
        OSError: a file cannot be read.
    """
    try:
        with quiet():
            stock, report = head.stock_class.from_pretrained(
                original.source,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # the error of transformers does not name the tensors
                trust_remote_code=False,
                **original.gguf,
                **original.hub,
            )
    except OSError:
        raise
    except Exception as error:  # transformers and torch raise errors of any class for wrong values in config.json
        raise ConversionError(
            f"{original.source} cannot be loaded as {head.stock} ({loading_error_line(error)})"
        ) from error
    return stock, report


def projects_labels(head: Head, name: str) -> bool:
    """Whether an original tensor belongs to the projection to the labels."""
    found = match(head.patterns, name)
    return found is not None and all(map(is_projection, found[0]))


def is_projection(name: str) -> bool:
    """Whether a tensor of seqblend belongs to the projection to the labels."""
    return name.split(".")[0] in ("score", "classifier")


def has_tied_head(stock: PreTrainedModel) -> bool:
    """Whether the language-model head shares the matrix of the embedding; True if there is no such head."""
    output = stock.get_output_embeddings()
    if output is None:
        return True
    pointers = [tensor.data_ptr() for tensor in stock.state_dict().values()]
    return pointers.count(output.weight.data_ptr()) > 1


def check_shared_embeddings(
    source: str | Path, config: RecipeConfig, tensors: dict[str, torch.Tensor], prefix: str
) -> None:
    """Raises ConversionError if encoder and decoder should share their embeddings, and the checkpoint has two."""
    if config.is_encoder_decoder and config.tie_word_embeddings and config.share_encoder_decoder_embeddings:
        encoder, decoder = (tensors.get(f"{prefix}{part}.embed_tokens.weight") for part in ("encoder", "decoder"))
        if encoder is not None and decoder is not None and not torch.equal(encoder, decoder):
            raise ConversionError(
                f"{source}: encoder and decoder have different embeddings, and by config.json share one"
            )


def head_tensors(architecture: Architecture, head: Head, source: str | Path, names: Collection[str]) -> set[str]:
    """Those of the missing tensors that belong to the head. Raises ConversionError if one of the body is missing."""
    new = {name for name in names if match(head.patterns, name)}
    rest = [name for name in sorted(names) if name not in new and not architecture.is_preserved(name, head)]
    if rest:
        raise ConversionError(f"{source} lacks {rest[0]!r}{and_more(rest)}")
    return new


def preserve_unexpected(
    origin: Origin, head: Head, source: str | Path, checkpoint: Checkpoint | None, names: Collection[str]
) -> list[str]:
    """Preserve tensors of the checkpoint that the stock class does not have.

    Returns:
        The names of tensors of other heads.

    Raises:
        ConversionError: a tensor of the body has no counterpart.
    """
    architecture = origin.architecture
    names = [name for name in names if not is_buffer(name)]
    prefix = f"{head.stock_class.base_model_prefix}."
    preserved = {name for name in names if architecture.is_preserved(name, head)}
    if checkpoint is not None:
        for name, tensor in checkpoint.tensors(sorted(preserved)).items():
            origin.tensors[architecture.base_name(name, head)] = tensor
    # If names of the body have a prefix, a name without it belongs to a head.
    has_prefix = checkpoint is not None and any(name.startswith(prefix) for name in checkpoint.files)
    others = sorted(set(names) - preserved)
    heads = [
        name
        for name in others
        if (has_prefix and not name.startswith(prefix))
        or any(match(other.patterns, name) for other in architecture.heads.values())
    ]
    if unknown := [name for name in others if name not in heads]:
        raise ConversionError(f"{source}: {architecture.model_type} has no tensor {unknown[0]!r}{and_more(unknown)}")
    return heads


def and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
