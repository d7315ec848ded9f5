"""The preserved parts of the checkpoint that a model was converted from: a folder `original_files/` beside the model.

It holds everything that has no counterpart in seqblend or must be restored byte by byte: the original config.json, the
tokenizer's files, generation_config.json, chat templates, the modules of sentence-transformers, and tensors without
counterpart. Every save of the model writes the folder, every load reads it.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import is_offline_mode
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import cached_file, logging
from transformers.utils.hub import list_repo_templates

from ..data.objects import parse_object
from .modules import FILES as OF_SENTENCE_TRANSFORMERS
from .modules import (
    MODULES,
    TOKENIZER_CONFIG,
    Read,
    complete_settings,
    is_module_file,
    parse,
    read_modules,
    transformer_folder,
    with_transformer_in_root,
)
from .registry import ARCHITECTURES
from .table import Architecture, ConversionError

logger = logging.get_logger(__name__)

FOLDER = "original_files"
METADATA, TENSORS, CONFIG = "origin.json", "kept.safetensors", "config.json"
CARD = "README.md"
GENERATION = "generation_config.json"
# Files of the tokenizer: those that hold its tokens, and all.
VOCABULARY = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "dict.txt", "target_vocab.json"),
    *("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "target.spm"),
    *("tokenizer.model", "tokenizer.model.v1", "tokenizer.model.v2", "tokenizer.model.v3", "tekken.json"),
)
# The classes of tokenizers that need none of them.
WITHOUT_VOCABULARY = ("ByT5Tokenizer",)
TOKENIZER_FILES = (
    *(*VOCABULARY, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json"),
)
# Files beside the weights.
FILES = (GENERATION, *TOKENIZER_FILES, *OF_SENTENCE_TRANSFORMERS)
TEMPLATES = "additional_chat_templates"
TEMPLATE = re.compile(rf"{TEMPLATES}/[\w-]+\.jinja")


@dataclass
class Origin:
    """The preserved parts of a checkpoint.

    Args:
        architecture: of the checkpoint.
        config: the original config.json.
        dtype: of the original weights.
        files: the contents of the other original files, by path.
        tensors: original tensors without counterpart in seqblend, by their names in the stock base model. Of a table
            of positions: the rows without counterpart.
    """

    architecture: Architecture
    config: dict[str, Any]
    dtype: torch.dtype
    files: dict[str, bytes] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, which a model with an origin needs: the functions of an architecture cannot be pickled."""
        return vars(self) | {"architecture": self.architecture.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, architecture=ARCHITECTURES[state["architecture"]])

    def has_tokenizer(self) -> bool:
        """Whether the checkpoint has a tokenizer: a file of its tokens, or a class that reads bytes."""
        settings = parse(self.files.get(TOKENIZER_CONFIG))
        named = (settings.get("tokenizer_class"), self.config.get("tokenizer_class"))
        return any(name in self.files for name in VOCABULARY) or any(name in WITHOUT_VOCABULARY for name in named)

    def original_config(self) -> PreTrainedConfig:
        """The unchanged original configuration."""
        config = {name: value for name, value in self.config.items() if name != "model_type"}
        return self.architecture.original_config_class.from_dict(config)

    def save(self, directory: str | Path) -> None:
        """Write the folder into the directory of a saved model; an existing one is replaced."""
        directory = Path(directory)
        for name in origin_files(directory):
            (directory / name).unlink()
        folder = directory / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {
            "model_type": self.architecture.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "files": list(self.files),
        }
        (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        for path, content in self.files.items():
            (folder / flat_name(path)).write_bytes(content)
        if self.tensors:
            (folder / TENSORS).write_bytes(save_tensors(self.tensors, {"format": "pt"}))

    @classmethod
    def load(cls, source: str | Path, **options: Any) -> "Origin":
        """Read the folder beside a saved model.

        The files of sentence-transformers are read from the directory of the model if modules.json is there: when a
        sentence-transformers model is trained and saved, its modules are newer than the preserved ones.

        Args:
            source: a directory or a repository of the Hub.
            options: of cached_file.

        Raises:
            ConversionError: it is missing or damaged; the message names the file.
        """

        def find(name: str, **more_options: bool) -> str | None:
            try:
                return cached_file(source, f"{FOLDER}/{name}", **more_options, **options)
            except Exception as error:  # cached_file and its HTTP client raise errors of any class
                raise ConversionError(f"{name}: {error}") from error

        def read(name: str) -> bytes:
            path = find(name)
            assert path is not None, "cached_file raises an error for a missing file"
            return Path(path).read_bytes()

        def read_json(name: str) -> dict[str, Any]:
            try:
                return parse_object(read(name).decode())
            except ValueError as error:
                raise ConversionError(f"{name} {error}") from error

        try:
            architecture, dtype, paths = parse_metadata(read_json(METADATA))
            files = {path: read(flat_name(path)) for path in paths}
            origin = cls(architecture, read_json(CONFIG), dtype, files)
            origin.update_modules(source, **options)
            if find(TENSORS, _raise_exceptions_for_missing_entries=False) is not None:
                origin.tensors = load_tensors(read(TENSORS))
        except (ConversionError, OSError, SafetensorError) as error:
            raise ConversionError(
                f"{source} was converted from another architecture, but its {FOLDER}/ cannot be read: {error}"
            ) from error
        return origin

    def update_modules(self, source: str | Path, **options: Any) -> None:
        """Replace the files of sentence-transformers by those in the directory of a saved model, if it has any.

        Args:
            source: a directory or a repository of the Hub.
            options: of cached_file.

        Raises:
            ConversionError: modules.json is damaged.
        """
        read = reader(source, **options)
        if files := read_modules(read, f"{source}: {MODULES}"):
            complete_settings(files, read(TOKENIZER_CONFIG), self.files)
            others = {path: content for path, content in self.files.items() if not is_module_file(path)}
            self.files = others | files


def parse_metadata(metadata: dict[str, Any]) -> tuple[Architecture, torch.dtype, list[str]]:
    """Architecture, dtype and paths of files from the content of origin.json; unknown paths are dropped.

    Raises:
        ConversionError: one of them is missing or wrong.
    """
    architecture = ARCHITECTURES.get(str(metadata.get("model_type")))
    dtype, paths = getattr(torch, str(metadata.get("dtype")), None), metadata.get("files")
    if architecture is None or not isinstance(dtype, torch.dtype) or not isinstance(paths, list):
        raise ConversionError(f"{METADATA} has no valid model_type, dtype and files")
    return architecture, dtype, [path for path in paths if isinstance(path, str) and is_preserved_file(path)]


def is_preserved_file(path: str) -> bool:
    """Whether a file of a checkpoint is preserved. Only exact names, so that no file is written elsewhere."""
    return path in FILES or is_module_file(path) or TEMPLATE.fullmatch(path) is not None


def flat_name(path: str) -> str:
    """The name of a preserved file in the folder. push_to_hub of transformers does not upload folders in folders."""
    return f"file-{path.replace('/', '--')}"


def is_origin_file(name: str) -> bool:
    """Whether Origin.save writes a file with this path, relative to the directory of the model."""
    folder, _, file = name.partition("/")
    is_file = file.startswith("file-") and is_preserved_file(file.removeprefix("file-").replace("--", "/"))
    return folder == FOLDER and (file in (METADATA, CONFIG, TENSORS) or is_file)


def origin_files(directory: Path) -> list[str]:
    """Paths of the files that Origin.save wrote, relative to the directory; empty if the model was not converted."""
    names = [f"{FOLDER}/{path.name}" for path in sorted((directory / FOLDER).glob("*")) if path.is_file()]
    return [name for name in names if is_origin_file(name)]


def without_adapter(model: Any) -> Any:
    """The model inside a PeftModel; any other model unchanged."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def origin_of(model: PreTrainedModel) -> Origin:
    """The origin of a converted model. Raises ConversionError if the model was not converted."""
    origin = getattr(model, "origin", None)
    if not isinstance(origin, Origin):
        raise ConversionError(f"this {type(model).__name__} was not converted from another architecture")
    return origin


def save_origin(model: PreTrainedModel, directory: str | Path) -> None:
    """Write the origin of a model into the directory, if the model was converted."""
    if isinstance(origin := getattr(model, "origin", None), Origin):
        origin.save(directory)


def load_origin(model: PreTrainedModel, source: str | Path, **options: Any) -> None:
    """Set `origin` of a model that was converted, according to its config; warn if the folder cannot be read.

    Args:
        model: just loaded from `source`.
        source: a directory or a repository of the Hub.
        options: of cached_file.
    """
    if getattr(model.config, "original_model_type", None) is None:
        return
    try:
        model.origin = Origin.load(source, **options)
    except ConversionError as error:
        logger.warning("%s. The model works, but cannot be converted back", error)


def reader(source: str | Path, **options: Any) -> Read:
    """A function that returns the content of a file of a checkpoint, or None if it does not exist.

    Args:
        source: a directory or a repository of the Hub.
        options: of cached_file.
    """
    # Offline, only files in the cache can be found; missing ones are no error.
    is_offline = is_offline_mode() or options.get("local_files_only", False)
    root = Path(source).resolve() if Path(source).is_dir() else None

    def read(path: str) -> bytes | None:
        file = cached_file(
            source,
            path,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=not is_offline,
            **options,
        )
        if file is None or (root is not None and is_link_outside(Path(file), root)):
            return None
        return Path(file).read_bytes()

    return read


def read_files(source: str | Path, **options: Any) -> dict[str, bytes]:
    """The contents of the preserved files of a checkpoint, by path.

    Args:
        source: a directory or a repository of the Hub.
        options: of cached_file.

    Raises:
        ConversionError: modules.json is damaged.
    """
    read, read_root, name = reader(source, **options), reader(source, **in_root(options)), f"{source}: {MODULES}"
    paths = [*FILES, *(f"{TEMPLATES}/{template}.jinja" for template in list_templates(source, **options))]
    files = {path: content for path in paths if is_preserved_file(path) and (content := read(path)) is not None}
    if not options.get("subfolder"):
        return files | read_modules(read, name)
    if options["subfolder"] != transformer_folder(read_root, name):
        return files
    # The checkpoint of a transformer in a folder beside the other modules becomes one directory.
    modules = read_modules(read_root, name)
    return files | modules | {MODULES: with_transformer_in_root(modules[MODULES], name)}


def find_transformer(source: str | Path, **options: Any) -> str:
    """The folder of the transformer in a checkpoint of sentence-transformers; empty: the directory itself.

    Args:
        source: a directory or a repository of the Hub.
        options: of cached_file.

    Raises:
        ConversionError: modules.json is damaged.
    """
    return transformer_folder(reader(source, **options), f"{source}: {MODULES}")


def in_root(options: dict[str, Any]) -> dict[str, Any]:
    """Options of cached_file without the subfolder."""
    return {name: value for name, value in options.items() if name != "subfolder"}


def is_link_outside(file: Path, root: Path) -> bool:
    """Whether a file is a link out of the directory `root`. Links in a snapshot of the Hub's cache are allowed."""
    target = file.resolve()
    return not (target.is_relative_to(root) or target.is_relative_to(root.parent.parent / "blobs"))


def list_templates(source: str | Path, **options: Any) -> list[str]:
    """The names of the additional chat templates of a checkpoint."""
    if (folder := Path(source)).is_dir():
        return sorted(path.stem for path in (folder / TEMPLATES).glob("*.jinja"))
    known = {name: options.get(name) for name in ("revision", "cache_dir", "token")}
    names = list_repo_templates(str(source), local_files_only=bool(options.get("local_files_only")), **known)
    return [name.removesuffix(".jinja") for name in names]
