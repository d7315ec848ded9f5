"""What is kept of the checkpoint that a model was converted from: a folder `original_files/` beside the model.

It holds what has no place in ours and what must come back byte by byte: their config.json, the tokenizer's files,
generation_config.json, chat templates, the modules of sentence-transformers, and tensors that ours does not have.
Every save of the model writes it, every load reads it.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import is_offline_mode
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import cached_file, logging
from transformers.utils.hub import list_repo_templates

from .checkpoint import parsed
from .registry import ARCHITECTURES
from .table import Architecture, ConversionError

logger = logging.get_logger(__name__)

FOLDER = "original_files"
FACTS, KEPT, CONFIG = "origin.json", "kept.safetensors", "config.json"
GENERATION = "generation_config.json"
# Files beside the weights that say how a model is fed, asked and pooled.
FILES = (
    GENERATION,
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "dict.txt", "target_vocab.json", "tekken.json"),
    *("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "target.spm"),
    *("tokenizer.model", "tokenizer.model.v1", "tokenizer.model.v2", "tokenizer.model.v3"),
    *("chat_template.jinja", "chat_template.json"),
    *("modules.json", "config_sentence_transformers.json"),
    *(f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")),
)
# Files of the modules that modules.json names, each in a folder of its own, and of further chat templates.
MODULE_FILES = ("config.json", "model.safetensors", "pytorch_model.bin")
TEMPLATES = "additional_chat_templates"
IN_FOLDERS = re.compile(rf"\w[\w.-]*/({'|'.join(map(re.escape, MODULE_FILES))})|{TEMPLATES}/[\w-]+\.jinja")


@dataclass
class Origin:
    """What is kept of a checkpoint.

    Args:
        architecture: its table.
        config: their config.json.
        dtype: of their weights.
        files: their other files, by their paths.
        tensors: their tensors that ours does not have, by their names in the stock class; of a table of positions,
            the rows that ours does not have.
    """

    architecture: Architecture
    config: dict[str, Any]
    dtype: torch.dtype
    files: dict[str, bytes] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def their_config(self) -> PreTrainedConfig:
        """Their configuration as it was."""
        config = {name: value for name, value in self.config.items() if name != "model_type"}
        return self.architecture.their_config_class.from_dict(config)

    def save(self, directory: str | Path) -> None:
        """Write the folder into the directory of a model of ours, in place of one that is there."""
        directory = Path(directory)
        for name in kept_files(directory):
            (directory / name).unlink()
        folder = directory / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "model_type": self.architecture.model_type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "files": list(self.files),
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        for path, content in self.files.items():
            (folder / flat_name(path)).write_bytes(content)
        if self.tensors:
            (folder / KEPT).write_bytes(save_tensors(self.tensors, {"format": "pt"}))

    @classmethod
    def load(cls, source: str | Path, **options: Any) -> "Origin":
        """Read what was kept beside a model of ours.

        Args:
            source: a directory or a repository of the Hub.
            options: of cached_file.

        Raises:
            ConversionError: it is not there or damaged; the message names the file.
        """

        def content(name: str) -> bytes:
            path = cached_file(source, f"{FOLDER}/{name}", **options)
            return Path(path).read_bytes()

        try:
            facts, config = json.loads(content(FACTS)), json.loads(content(CONFIG))
            architecture = ARCHITECTURES[facts["model_type"]]
            origin = cls(
                architecture=architecture,
                config=config,
                dtype=getattr(torch, facts["dtype"]),
                files={path: content(flat_name(path)) for path in facts["files"] if is_kept(path)},
            )
            if not isinstance(origin.dtype, torch.dtype) or not isinstance(config, dict):
                raise ValueError(f"{FACTS} or {CONFIG} holds something else")
            if cached_file(source, f"{FOLDER}/{KEPT}", _raise_exceptions_for_missing_entries=False, **options):
                origin.tensors = load_tensors(content(KEPT))
        except Exception as error:  # of the file system, the Hub, JSON and safetensors, and of facts changed by hand
            raise ConversionError(
                f"{source} was converted from another architecture, but its {FOLDER}/ cannot be read: {error}"
            ) from error
        return origin


def is_kept(path: str) -> bool:
    """Whether a file of a checkpoint is kept: by its exact name, so that none is written elsewhere."""
    return path in FILES or IN_FOLDERS.fullmatch(path) is not None


def flat_name(path: str) -> str:
    """The name of a kept file. push_to_hub of transformers uploads a folder's files, but no folders in it."""
    return f"file-{path.replace('/', '--')}"


def is_origin_file(name: str) -> bool:
    """Whether a file, by its path beside a model, is one that Origin.save writes."""
    folder, _, file = name.partition("/")
    is_file = file.startswith("file-") and is_kept(file.removeprefix("file-").replace("--", "/"))
    return folder == FOLDER and (file in (FACTS, CONFIG, KEPT) or is_file)


def kept_files(directory: Path) -> list[str]:
    """The names of what Origin.save wrote into a directory, from there; none where the model was not converted."""
    names = [f"{FOLDER}/{path.name}" for path in sorted((directory / FOLDER).glob("*")) if path.is_file()]
    return [name for name in names if is_origin_file(name)]


def origin_of(model: PreTrainedModel) -> Origin:
    """What was kept of the checkpoint that a model was converted from. Raises ConversionError where there is none."""
    origin = getattr(model, "origin", None)
    if not isinstance(origin, Origin):
        raise ConversionError(f"this {type(model).__name__} was not converted from another architecture")
    return origin


def save_origin(model: PreTrainedModel, directory: str | Path) -> None:
    """Write what was kept of the checkpoint that a model was converted from, if it was."""
    if isinstance(origin := getattr(model, "origin", None), Origin):
        origin.save(directory)


def load_origin(model: PreTrainedModel, source: str | Path, **options: Any) -> None:
    """Give a model what was kept beside it, where its config says that it was converted; warn where that is gone.

    Args:
        model: of ours, just loaded from
        source: a directory or a repository of the Hub.
        options: of cached_file.
    """
    if getattr(model.config, "original_model_type", None) is None:
        return
    try:
        model.origin = Origin.load(source, **options)
    except ConversionError as error:
        logger.warning("%s. The model works, but cannot be given back", error)


def read_files(source: str | Path, **options: Any) -> dict[str, bytes]:
    """The files of a checkpoint that are kept, by their paths.

    Args:
        source: a directory or a repository of the Hub.
        options: of cached_file.
    """
    # Without a connection, or where none is to be made, what the cache has is all there is.
    is_offline = is_offline_mode() or options.get("local_files_only", False)
    root = Path(source).resolve() if Path(source).is_dir() else None

    def found(path: str) -> bytes | None:
        file = cached_file(
            source,
            path,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=not is_offline,
            **options,
        )
        if file is None or (root is not None and leads_out(Path(file), root)):
            return None
        return Path(file).read_bytes()

    paths = list(FILES)
    if (modules := found("modules.json")) is not None:
        listed = parsed(modules, f"{source}: modules.json", list)
        folders = [module["path"] for module in listed if isinstance(module, dict) and module.get("path")]
        paths += [f"{folder}/{name}" for folder in folders for name in MODULE_FILES]
    paths += [f"{TEMPLATES}/{name}.jinja" for name in templates(source, **options)]
    contents = {path: found(path) for path in paths if is_kept(path)}
    return {path: content for path, content in contents.items() if content is not None}


def leads_out(file: Path, root: Path) -> bool:
    """Whether a file of a directory is a link to somewhere else; those of a snapshot of the Hub's cache are not."""
    target = file.resolve()
    return not (target.is_relative_to(root) or target.is_relative_to(root.parent.parent / "blobs"))


def templates(source: str | Path, **options: Any) -> list[str]:
    """The names of a checkpoint's further chat templates, which only a listing tells."""
    if (folder := Path(source)).is_dir():
        return sorted(path.stem for path in (folder / TEMPLATES).glob("*.jinja"))
    known = {name: options.get(name) for name in ("revision", "cache_dir", "token")}
    names = list_repo_templates(str(source), local_files_only=bool(options.get("local_files_only")), **known)
    return [name.removesuffix(".jinja") for name in names]
