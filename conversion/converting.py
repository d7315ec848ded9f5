"""Conversion of a directory or a repository into a new directory, in either direction, with all files of the model.

The new directory is written under a temporary name, loaded, and compared with its source. Only then it gets its name.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from ..data.errors import check_choice, loading_error_line, short_list
from ..data.writing import atomic_directory
from ..modeling.families import FAMILIES
from .checkpoint import Checkpoint
from .comparison import compare
from .modules import MODULES, is_module_file, transformer_class, unusable_modules
from .origin import FOLDER, VOCABULARY, Origin, reader
from .reading import (
    MODEL_TYPES,
    LoadReport,
    Original,
    as_dtype,
    find_architecture,
    is_own,
    open_stock,
    quiet,
    read_original_config,
)
from .table import Architecture, ConversionError, Head, find_named
from .target import check_target
from .tensors import sinusoids
from .writing import to_original

# The short names of the heads: those of the tasks that train them. tasks/ may not be imported here.
HEADS = {
    "base": "AutoModel",
    "masked-lm": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}
SHORT_NAMES = {auto: name for name, auto in HEADS.items()}
# Texts by which two tokenizers are compared: capitals, accents, spaces, digits, and scripts without spaces.
TEXTS = ["Hello, World!", "  two  spaces\nand a line", "Straße, naïve, İstanbul", "北京 뭐라고요 สวัสดี", "x = 3.14e-10"]


@dataclass
class Conversion:
    """What was written.

    Args:
        target: the directory.
        origin: with the files that were preserved or restored.
        tensors: the names of the tensors that were.
        to_ours: whether the directory holds a model of seqblend; if not, one of the original architecture.
        class_name: of that model.
        head: the name of its Auto class.
        parameters: their number.
        error: the largest difference of the outputs, relative to their standard deviation.
        report: what the checkpoint lacks, and what is ignored.
        notes: what the user must know, one line each.
    """

    target: Path
    origin: Origin
    tensors: list[str]
    to_ours: bool
    class_name: str
    head: str
    parameters: int
    error: float
    report: LoadReport = field(default_factory=LoadReport)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        direction = "from" if self.to_ours else "in the format of"
        parts = [
            f"{self.target}: {self.class_name} ({SHORT_NAMES[self.head]})",
            f"{self.parameters:,} parameters, {direction} {self.origin.architecture.model_type}",
        ]
        if new := self.report.initialized:
            parts.append(f"newly initialized, train before use: {', '.join(new)}")
        if ignored := self.report.ignored:
            parts.append(f"tensors of other heads, which are ignored: {short_list(ignored)}")
        preserved = [f"{len(self.origin.files)} files"] if self.origin.files else []
        if self.tensors:
            preserved.append(f"the tensors {short_list(self.tensors)}")
        if preserved:
            parts.append(f"{f'preserved in {FOLDER}/' if self.to_ours else 'restored'}: {' and '.join(preserved)}")
        compared = "states of the base model" if new else "outputs"
        difference = f"differ by at most {self.error:.0e} of their standard deviation" if self.error else "are equal"
        return "; ".join([*parts, f"{compared} {difference}"])


def convert(
    source: str | Path,
    target: str | Path,
    *,
    head: str | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    model_type: str | None = None,
    gguf_file: str | None = None,
    dtype: torch.dtype | str | None = None,
    legacy_keys: bool = False,
    original_files: str | Path | None = None,
) -> Conversion:
    """Convert a checkpoint of another architecture to a model of seqblend, or such a model back to its own format.

    Args:
        source: a directory or a repository of the Hub.
        target: the directory to write. It gets its name when everything is written and compared with the source.
        head: one of HEADS; None: what sentence-transformers loads, if there is a modules.json, else what config.json
            names.
        overwrite: replace a directory that holds a model and no other files.
        revision: a branch, a tag or a commit of the repository.
        model_type: to seqblend only: the architecture, if config.json does not name it.
        gguf_file: to seqblend only: the name of the file, for a checkpoint in GGUF.
        dtype: to seqblend only: of the weights; see from_original.
        legacy_keys: to the original format only; see to_original.
        original_files: to the original format only: another converted model, whose original_files/ are used if those
            of the source are missing.

    Raises:
        ConversionError: the source cannot be converted, an option is for the other direction, the target must not be
            written, or the written model has other outputs than the source; nothing is left behind.
        OSError: there is no such directory or repository, or no config.json.
        ValueError: the source is a model of a later version of seqblend.
    """
    source, target = local_path(source), Path(os.path.expanduser(target))
    check_target(target, source, overwrite)
    if head is not None:
        check_choice("head", head, HEADS)
    if dtype is not None:
        as_dtype(dtype)
    if revision is not None and isinstance(source, Path):
        raise ConversionError(f"revision: is for a repository of the Hub, but {source} is a directory")
    hub = {} if revision is None else {"revision": revision}
    gguf = {} if gguf_file is None else {"gguf_file": gguf_file}
    config = read_config(source, gguf, hub)
    reading_options = {"model_type": model_type, "gguf_file": gguf_file, "dtype": dtype}
    writing_options: dict[str, Any] = {"legacy_keys": legacy_keys, "original_files": original_files}
    for name, value in (reading_options if is_own(config) else writing_options).items():
        if value:
            kind = "a checkpoint of another architecture" if is_own(config) else "a model of seqblend"
            raise ConversionError(f"{name}: applies only to {kind}, and {source} is not one")
    if is_own(config):
        return convert_to_original(source, target, config, head, hub, **writing_options)
    original = Original(source, find_architecture(source, config, model_type), config, hub, gguf)
    return convert_to_ours(original, target, head, dtype)


# --- The source and the target ---


def local_path(source: str | Path) -> str | Path:
    """The source, if it is a repository or an existing directory. Raises ConversionError for a missing directory."""
    name, path = str(source), Path(os.path.expanduser(source))
    if path.is_dir():
        return path
    if path.exists():
        raise ConversionError(f"{name} is a file, not a directory or a repository")
    if isinstance(source, Path) or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ConversionError(f"there is no directory {name}")
    return name


def read_config(source: str | Path, gguf: dict[str, str], hub: dict[str, Any]) -> dict[str, Any]:
    """See read_original_config; an OSError names the source."""
    try:
        return read_original_config(source, gguf, hub)
    except OSError as error:
        raise OSError(str(error) if str(source) in str(error) else f"{source}: {error}") from error


# --- The head ---


def find_head(
    source: str | Path,
    model_type: str,
    models: Iterable[type],
    classes: Mapping[str, str],
    architectures: Any,
    head: str | None,
) -> Any:
    """The Auto class of a checkpoint: of the head that was asked for, or of the class that config.json names.

    Args:
        source: of the checkpoint, for messages.
        model_type: of the checkpoint, for messages.
        models: the Auto classes of all heads that can be asked for.
        classes: the names of the classes that config.json may name, by the name of the Auto class.
        architectures: the value in config.json.
        head: one of HEADS; None: what config.json names.

    Raises:
        ConversionError: the model cannot have the head; or config.json names no class, or another one. The message
            lists the heads.
    """
    possible = {SHORT_NAMES[each.__name__]: each for each in models}
    if head is not None and head not in possible:
        raise ConversionError(f"head: {source} ({model_type}) cannot have {head}, only {', '.join(possible)}")
    if head is None:
        named = find_named(classes, architectures)
        if named is None:
            found = "names no class in `architectures`"
            if isinstance(architectures, list) and architectures:
                found = f"names the class {architectures[0]}, which is not a class of {model_type}"
            valid = ", ".join(f"{SHORT_NAMES[auto]} ({name})" for auto, name in classes.items())
            raise ConversionError(f"{source}: config.json {found}; give --head, one of {valid}")
        head = SHORT_NAMES[named]
    return possible[head]


# --- To seqblend ---


def convert_to_ours(original: Original, target: Path, head: str | None, dtype: torch.dtype | str | None) -> Conversion:
    """Convert a checkpoint of another architecture. Arguments and errors are those of `convert`."""
    source, architecture = original.source, original.architecture
    module_class = transformer_class(original.files)
    is_known = original.saved_head() is not None or not original.config.get("architectures")
    if head is None and is_known and module_class in architecture.heads:
        head = SHORT_NAMES[str(module_class)]
    auto_class = find_head(
        source,
        architecture.model_type,
        models=FAMILIES[architecture.config_class],
        classes={auto: each.stock for auto, each in architecture.heads.items()},
        architectures=original.config.get("architectures"),
        head=head,
    )
    model, report = original.convert(auto_class, original.convert_config(auto_class), dtype)
    origin, class_name, parameters = model.origin, type(model).__name__, model.num_parameters()
    tokenizer = original_tokenizer(original, origin)
    notes = [] if tokenizer else [f"{source} has no tokenizer, so {target} has none either"]
    with atomic_directory(target) as directory, quiet():
        model.save_pretrained(directory)
        del model
        if tokenizer is not None:
            write_tokenizer(tokenizer, directory)
        if MODULES in origin.files and (module_class == auto_class.__name__ or original.saved_head() is auto_class):
            notes += write_modules(origin, directory)
        saved = auto_class.from_pretrained(directory, dtype="auto", trust_remote_code=False)
        stock = load_stock_again(original, architecture.head_for(auto_class.__name__), saved.dtype)
        error = compare(saved, stock, with_head=not report.initialized)
    return Conversion(
        target=target,
        origin=origin,
        tensors=sorted(origin.tensors),
        to_ours=True,
        class_name=class_name,
        head=auto_class.__name__,
        parameters=parameters,
        error=error,
        report=report,
        notes=notes,
    )


def load_stock_again(original: Original, head: Head, dtype: torch.dtype) -> PreTrainedModel:
    """The stock model of a checkpoint, with weights rounded to a dtype, for the comparison."""
    # In half precision, some stock classes keep weights in float32, and others round constants.
    stock, _ = open_stock(original, head, original.stock_config(), torch.promote_types(dtype, torch.float32))
    for tensor in stock.state_dict().values():
        if tensor.is_floating_point() and tensor.dtype != dtype:
            tensor.copy_(tensor.to(dtype))
    return with_exact_sinusoids(stock, original.architecture, head)


def with_exact_sinusoids(stock: PreTrainedModel, architecture: Architecture, head: Head) -> PreTrainedModel:
    """The stock model, changed in place: its tables of sinusoids, which half precision rounds, become exact."""
    for name, table in stock.state_dict().items():
        if architecture.is_sinusoidal(architecture.base_name(name, head)):
            table.copy_(sinusoids(*table.shape))
    return stock


def write_modules(origin: Origin, directory: Path) -> list[str]:
    """Write the files of sentence-transformers beside the model. Returns what the user must know."""
    if types := unusable_modules(origin.files[MODULES], MODULES):
        return [f"sentence-transformers cannot open it, because its module {types[0]} is not preserved"]
    for path, content in origin.files.items():
        if is_module_file(path):
            (directory / path).parent.mkdir(exist_ok=True)
            (directory / path).write_bytes(content)
    return []


# --- Tokenizers ---


def original_tokenizer(original: Original, origin: Origin) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a checkpoint, None if it has none. Raises ConversionError if it cannot be loaded."""
    if not original.gguf and not origin.has_tokenizer():
        return None
    return load_tokenizer(original.source, config=original.stock_config(), **original.gguf, **original.hub)


def load_tokenizer(source: str | Path, config: PreTrainedConfig | None = None, **options: Any) -> Any:
    """A tokenizer. Raises ConversionError if it cannot be loaded."""
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=False, **options)
    except Exception as error:  # transformers and tokenizers raise errors of any class
        raise ConversionError(f"{source}: its tokenizer cannot be loaded: {loading_error_line(error)}") from error


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Save a tokenizer beside the model. Raises ConversionError if it gives other tokens when it is loaded."""
    tokenizer.init_kwargs.pop("auto_map", None)  # that code is not saved
    tokenizer.save_pretrained(directory)
    if tokens_of(load_tokenizer(directory)) != tokens_of(tokenizer):
        raise ConversionError("the tokenizer gives other tokens when it is saved and loaded; nothing was written")


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The tokens of some texts, and what pads and limits them."""
    names = ("pad_token_id", "padding_side", "model_max_length", "chat_template", "all_special_ids")
    settings = {name: getattr(tokenizer, name) for name in names}
    return {**tokenizer(TEXTS), "pairs": dict(tokenizer(TEXTS[:-1], TEXTS[1:])), **settings}


def complete_tokenizer(source: str | Path, origin: Origin, directory: Path, hub: dict[str, Any]) -> list[str]:
    """Write the tokenizer of a model of seqblend where the original had no file of one, as in GGUF.

    Returns:
        What the user must know of the tokenizer that was written.
    """
    read = reader(source, **hub)
    if not any(read(name) for name in VOCABULARY):
        return []
    tokenizer = load_tokenizer(source, **hub)
    if not origin.has_tokenizer():
        write_tokenizer(tokenizer, directory)
        return [f"the original had no tokenizer, so that of {source} was written"]
    if tokenizer(TEXTS)["input_ids"] == load_tokenizer(directory)(TEXTS)["input_ids"]:
        return []
    return [f"the original tokenizer was written; it gives other tokens than that of {source}"]


# --- To the original format ---


def convert_to_original(
    source: str | Path,
    target: Path,
    config: dict[str, Any],
    head: str | None,
    hub: dict[str, Any],
    *,
    legacy_keys: bool,
    original_files: str | Path | None,
) -> Conversion:
    """Convert a model of seqblend back. Arguments and errors are those of `convert`."""
    model_type = config.get("original_model_type")
    if model_type is None:
        raise ConversionError(f"{source} was not converted from another architecture, so it has no original format")
    models = FAMILIES[MODEL_TYPES[config["model_type"]]]
    auto_class = find_head(
        source,
        config["model_type"],
        models=models,
        classes={auto.__name__: model_class.__name__ for auto, model_class in models.items()},
        architectures=config.get("architectures"),
        head=head,
    )
    origin = read_origin(source, original_files, hub)
    architecture = origin.architecture
    if architecture.model_type != model_type:
        raise ConversionError(
            f"original_files: belongs to {architecture.model_type}, but {source} was converted from {model_type}"
        )
    model = load_ours(source, auto_class, hub)
    model.origin = origin
    with atomic_directory(target) as directory, quiet():
        to_original(model, directory, legacy_keys)
        written = architecture.heads[auto_class.__name__]
        dtype = torch.promote_types(model.dtype, torch.float32)
        stock = written.stock_class.from_pretrained(directory, dtype=dtype, trust_remote_code=False)
        parameters = stock.num_parameters()
        error = compare(model, with_exact_sinusoids(stock, architecture, written))
        notes = complete_tokenizer(source, origin, directory, hub)
    return Conversion(
        target=target,
        origin=origin,
        tensors=restored_tensors(origin, written),
        to_ours=False,
        class_name=written.stock,
        head=auto_class.__name__,
        parameters=parameters,
        error=error,
        notes=notes,
    )


def restored_tensors(origin: Origin, head: Head) -> list[str]:
    """The names of preserved tensors that are written back, and not replaced by weights of the model."""
    prefix = origin.architecture.stock_prefix(head)

    def is_restored(name: str) -> bool:
        found = origin.architecture.find_targets(prefix + name, head, "")
        return found is None or found[1].skipped_rows is not None or found[1].is_alias

    return sorted(filter(is_restored, origin.tensors))


def read_origin(source: str | Path, original_files: str | Path | None, hub: dict[str, Any]) -> Origin:
    """The origin of a model: from its own original_files/, or from those of another model.

    Raises:
        ConversionError: they cannot be read.
    """
    if original_files is not None:
        origin = Origin.load(local_path(original_files))
        origin.update_modules(source, **hub)
        return origin
    try:
        return Origin.load(source, **hub)
    except ConversionError as error:
        advice = "give --original_files, a model with this folder, such as the one from which it was trained"
        raise ConversionError(f"{error}; {advice}") from error


def load_ours(source: str | Path, auto_class: Any, hub: dict[str, Any]) -> PreTrainedModel:
    """A model of seqblend. Raises ConversionError if a file is damaged, or a tensor missing or of another shape."""
    Checkpoint(source, **hub)
    with quiet():
        model, info = auto_class.from_pretrained(
            source,
            dtype="auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the error of transformers does not name the tensors
            trust_remote_code=False,
            **hub,
        )
    if mismatched := sorted(info["mismatched_keys"]):
        raise ConversionError(f"{source}: the shape of {mismatched[0][0]} does not match config.json")
    if missing := sorted(info["missing_keys"]):
        raise ConversionError(
            f"{source}: the head needs {short_list(missing)}, which are missing; give another --head"
        )
    return model
