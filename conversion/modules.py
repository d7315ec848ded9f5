"""The files of sentence-transformers in a checkpoint: modules.json, and the files of the modules that it names.

The first module is the transformer, whose files are those of the checkpoint. Each other module (pooling, dense layers,
normalization) has a folder of its own.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from .table import ConversionError

MODULES = "modules.json"
# Settings of the transformer, in the order in which sentence-transformers looks for them.
SETTINGS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")
)
FILES = (MODULES, "config_sentence_transformers.json", *SETTINGS)
MODULE_FILES = ("config.json", "lstm_config.json", "cnn_config.json", "model.safetensors", "pytorch_model.bin")
# The folder of a module. original_files/ is that of origin.py.
FOLDER = re.compile(r"(?!original_files$)\w[\w.-]*")
TOKENIZER_CONFIG = "tokenizer_config.json"
# The Auto classes that the transformer of sentence-transformers loads, by its `transformer_task`.
AUTO_CLASSES = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
}

# Returns the content of a file by its path, or None if it does not exist.
Read = Callable[[str], bytes | None]


def is_module_file(path: str) -> bool:
    """Whether sentence-transformers has a file at a path. Only exact names, so that no file is written elsewhere."""
    folder, _, name = path.rpartition("/")
    return path in FILES or (name in MODULE_FILES and FOLDER.fullmatch(folder) is not None)


def parse_modules(content: bytes, name: str) -> list[dict[str, Any]]:
    """The modules in modules.json, each with its `path` and `type`.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        ConversionError: the content is not a JSON list.
    """
    try:
        modules = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{name} is no JSON") from error
    if not isinstance(modules, list):
        raise ConversionError(f"{name} must hold a list, but is a {type(modules).__name__}")
    return [module for module in modules if isinstance(module, dict)]


def module_folder(module: dict[str, Any]) -> str:
    """The folder of a module; empty for the directory of the checkpoint itself."""
    return str(module.get("path") or "")


def read_modules(read: Read, name: str) -> dict[str, bytes]:
    """The contents of sentence-transformers' files by path; empty if there is no modules.json.

    Args:
        read: reads a file of the checkpoint.
        name: of modules.json, for messages.

    Raises:
        ConversionError: modules.json is damaged.
    """
    if (content := read(MODULES)) is None:
        return {}
    folders = [folder for module in parse_modules(content, name) if (folder := module_folder(module))]
    paths = [*FILES, *(f"{folder}/{file}" for folder in folders for file in MODULE_FILES)]
    contents = {path: read(path) for path in paths if is_module_file(path)}
    return {path: content for path, content in contents.items() if content is not None}


def transformer_folder(read: Read, name: str) -> str:
    """The folder of the transformer, which old versions saved in `0_Transformer`; empty for the directory itself."""
    content = read(MODULES)
    modules = [] if content is None else parse_modules(content, name)
    folder = module_folder(modules[0]) if modules else ""
    return folder if FOLDER.fullmatch(folder) else ""


def transformer_class(files: Mapping[str, bytes]) -> str | None:
    """The name of the Auto class that the transformer of sentence-transformers loads; None if there is none.

    Args:
        files: the contents of sentence-transformers' files by path.

    Raises:
        ConversionError: modules.json is damaged.
    """
    modules = parse_modules(files[MODULES], MODULES) if MODULES in files else []
    kind = str(modules[0].get("type")) if modules else ""
    if not kind.startswith("sentence_transformers."):
        return None
    default = "fill-mask" if kind.endswith(".MLMTransformer") else "feature-extraction"
    settings = parse(next((files[name] for name in SETTINGS if name in files), None))
    return AUTO_CLASSES.get(str(settings.get("transformer_task", default)))


def with_transformer_in_root(content: bytes, name: str) -> bytes:
    """The content of modules.json, where the files of the transformer are moved to the directory itself."""
    modules = parse_modules(content, name)
    return json.dumps([modules[0] | {"path": ""}, *modules[1:]], indent=2).encode()


def unusable_modules(content: bytes, name: str) -> list[str]:
    """The types of modules whose files are not preserved: those with code of their own, or in nested folders."""
    return [
        str(module.get("type"))
        for module in parse_modules(content, name)
        if not str(module.get("type")).startswith("sentence_transformers.")
        or not (module_folder(module) == "" or FOLDER.fullmatch(module_folder(module)))
    ]


def complete_settings(files: dict[str, bytes], tokenizer: bytes | None, original: dict[str, bytes]) -> None:
    """Add to the settings of a saved transformer what sentence-transformers 6 saves with the tokenizer only.

    The original tokenizer is written back, so the longest input and lower-casing must be in the settings.

    Args:
        files: of the saved sentence-transformers model, changed in place.
        tokenizer: tokenizer_config.json that was saved beside.
        original: files of the original checkpoint.
    """
    path, path_before = (next((name for name in SETTINGS if name in each), SETTINGS[0]) for each in (files, original))
    settings, before = parse(files.get(path)), parse(original.get(path_before))
    longest = parse(tokenizer).get("model_max_length")
    added: dict[str, Any] = {}
    if "max_seq_length" not in settings and longest != parse(original.get(TOKENIZER_CONFIG)).get("model_max_length"):
        # Without a limit it is 1e30.
        added |= {"max_seq_length": longest} if isinstance(longest, int) and longest < 10**9 else {}
    if before.get("do_lower_case") and "do_lower_case" not in settings:
        added["do_lower_case"] = True
    if added:
        files[path] = json.dumps(settings | added, indent=4).encode()


def parse(content: bytes | None) -> dict[str, Any]:
    """The object in a JSON file; empty for other content, which sentence-transformers itself reports."""
    try:
        value = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
