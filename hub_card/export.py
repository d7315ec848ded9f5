"""Export of the model's code beside the weights, so that a saved model can be loaded without this package.

A Hub repository holds flat files, and its loader follows only lines of the form `from .sibling import name`. So the
module `modeling.encoder` becomes `modeling_encoder.py`, and its relative imports are rewritten to match. The package
calls patch_saving when it is imported, so that every save exports the code.
"""

import ast
import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from ..configuration.recipe_config import RecipeConfig
from ..conversion.origin import save_origin
from ..modeling.base import BlendPreTrainedModel
from ..version import __version__

# The model class of a family for each Auto class.
Models = dict[type, type[PreTrainedModel]]

# Lines that the Hub's loader takes for relative imports, even inside strings.
# Source: transformers.dynamic_module_utils.get_relative_imports.
FOLLOWED_IMPORT = re.compile(r"^\s*(?:from\s+\.(\S+)\s+import|import\s+\.(\S+)\s*$)", re.MULTILINE)

# The families whose code is exported, by model_type: configuration and models.
FAMILIES: dict[str, tuple[type[PreTrainedConfig], Models]] = {}

# First lines of every exported file.
HEADER = """\
# {name} of seqblend {version}, which is the module {module} there; Apache-2.0.
# Saved with a model of it: AutoModel runs this file where the package is not installed.
"""
HEADER_VERSION = re.compile(rb"# \S+ of seqblend (\S+), which is the module ")


def patch_saving(families: dict[type[PreTrainedConfig], Models], replace_stub: Callable[[Path, str], None]) -> None:
    """Patch save_pretrained so that every save holds weights, a config.json with auto_map, and the exported code.

    BlendPreTrainedModel.save_pretrained sets auto_map of the config while it runs. It is also called by Trainer and
    push_to_hub. A config with auto_map writes the code when it is saved. At that moment transformers has decided that
    this process writes the files, and that it saves more than an adapter.

    Args:
        families: every configuration, and its model for each Auto class.
        replace_stub: replaces the card that push_to_hub writes; called with a directory and the repository's name.
    """
    FAMILIES.update({config_class.model_type: (config_class, models) for config_class, models in families.items()})
    save_model, save_config = BlendPreTrainedModel.save_pretrained, RecipeConfig.save_pretrained
    upload = BlendPreTrainedModel._upload_modified_files
    model_saved: ContextVar[BlendPreTrainedModel | None] = ContextVar("model_saved", default=None)

    @wraps(save_model)
    def save_complete_model(self: BlendPreTrainedModel, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        config = self.config
        if type(config) not in families:
            return save_model(self, save_directory, *args, **kwargs)
        with own_auto_map(config, families[type(config)]), without_stale_weights(save_directory, **kwargs):
            token = model_saved.set(self)
            try:
                return save_model(self, save_directory, *args, **kwargs)
            finally:
                model_saved.reset(token)

    @wraps(save_config)
    def save_config_with_code(self: RecipeConfig, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        if type(self) not in families or not getattr(self, "auto_map", None):
            return save_config(self, save_directory, *args, **kwargs)
        models, model = families[type(self)], model_saved.get()
        if model is None:
            with own_auto_map(self, models):
                save_config(self, save_directory, *args, **kwargs)
        else:
            # Keeps the entries that register_for_auto_class has just added to auto_map.
            save_config(self, save_directory, *args, **kwargs)
            save_origin(model, save_directory)
        write_code(type(self), models, save_directory)

    @wraps(upload)
    def upload_with_card(self: BlendPreTrainedModel, working_dir: str | Path, repo_id: str, *args: Any, **kwargs: Any):
        replace_stub(Path(working_dir), repo_id)
        return upload(self, working_dir, repo_id, *args, **kwargs)

    BlendPreTrainedModel.save_pretrained = save_complete_model
    BlendPreTrainedModel._upload_modified_files = upload_with_card
    RecipeConfig.save_pretrained = save_config_with_code


@contextmanager
def without_stale_weights(directory: str | Path, variant: str | None = None, **_: Any) -> Iterator[None]:
    """Inside the block, weights are saved. If these are shards, a whole file of an earlier save is deleted.

    transformers deletes only shards of an earlier save, but loads a whole file rather than shards.

    Args:
        directory: where they are saved.
        variant: the part of the files' names that save_pretrained was given.
    """
    infix = "" if variant is None else f".{variant}"
    whole = Path(directory, f"model{infix}.safetensors")
    index = Path(directory, f"model.safetensors.index{infix}.json")
    before = index.stat().st_mtime_ns if index.is_file() else None
    yield
    if index.is_file() and index.stat().st_mtime_ns != before:
        whole.unlink(missing_ok=True)


@contextmanager
def own_auto_map(config: PreTrainedConfig, models: Models) -> Iterator[None]:
    """Inside the block, auto_map of a config names the code of its family only; afterwards the old value is back."""
    original = getattr(config, "auto_map", None)
    config.auto_map = auto_map(type(config), models)
    try:
        yield
    finally:
        config.auto_map = original
        if original is None:
            del config.auto_map


def auto_map(config_class: type[PreTrainedConfig], models: Models) -> dict[str, str]:
    """The auto_map of a family in config.json: `file.Class` for each Auto class."""
    classes = {"AutoConfig": config_class} | {auto_class.__name__: model for auto_class, model in models.items()}
    return {name: f"{flat_name(each.__module__)}.{each.__name__}" for name, each in classes.items()}


def write_code(config_class: type[PreTrainedConfig], models: Models, directory: str | Path) -> list[Path]:
    """Write the code of a family into a directory.

    Args:
        config_class: the configuration of the family.
        models: its models, all defined in one module.
        directory: where to write; created if it does not exist.

    Returns:
        The paths of the written files.

    Raises:
        ValueError: see flat_code.
    """
    code = family_code(config_class, models)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for file, source in code.items():
        (directory / file).write_bytes(source)
    return [directory / file for file in code]


def exported_version(path: Path) -> Version | None:
    """The version of this package in the header of an exported file; None without a valid header."""
    with path.open("rb") as file:
        found = HEADER_VERSION.match(file.readline(500))
    try:
        return None if found is None else Version(found[1].decode())
    except (InvalidVersion, UnicodeDecodeError):
        return None


def family_code(config_class: type[PreTrainedConfig], models: Models) -> dict[str, bytes]:
    """The code that is exported with every model of a family: name and content of each file.

    Raises:
        ValueError: see flat_code.
    """
    code = flat_code(config_class.__module__, *(model.__module__ for model in models.values()))
    for auto_class, reference in auto_map(config_class, models).items():
        file, name = reference.split(".")
        # Without this call, a model that is saved where this package is not installed is saved without its code.
        code[f"{file}.py"] += f'{name}.register_for_auto_class("{auto_class}")\n'.encode()
    return code


def flat_code(*modules: str) -> dict[str, bytes]:
    """Modules and everything that they import from their package, as flat files: name and content of each.

    Raises:
        ValueError: an import names a folder; or see flatten.
    """
    code: dict[str, bytes] = {}
    found = list(modules)
    for module in found:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None
        if spec.submodule_search_locations is not None:
            raise ValueError(f"{module} is a folder: an exported module imports from the module that defines the name")
        name = f"{flat_name(module)}.py"
        source, siblings = flatten(Path(spec.origin).read_bytes(), module)
        code[name] = HEADER.format(name=name, version=__version__, module=module).encode() + source
        found.extend(sibling for sibling in siblings if sibling not in found)
    return code


@functools.cache  # called for every checkpoint
def flatten(source: bytes, module: str) -> tuple[bytes, list[str]]:
    """Rewrite a module's relative imports for flat files.

    Args:
        source: of the module.
        module: its full name.

    Returns:
        The new source, and the full names of the modules that it imports, without duplicates.

    Raises:
        ValueError: the Hub's loader would follow a line that is not an import, or miss an import.
    """
    lines = source.splitlines(keepends=True)
    siblings: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            name = "." * node.level + (node.module or "")
            sibling = resolve_name(name, module.rpartition(".")[0])
            siblings[sibling] = flat_name(sibling)
            # ast counts columns in bytes, and these lines are bytes.
            line, start = lines[node.lineno - 1], node.col_offset
            written, flat = f"from {name} ".encode(), f"from .{siblings[sibling]} ".encode()
            lines[node.lineno - 1] = line[:start] + line[start:].replace(written, flat, 1)
    flattened = b"".join(lines)
    followed = {first or second for first, second in FOLLOWED_IMPORT.findall(flattened.decode())}
    if wrong := followed ^ set(siblings.values()):
        raise ValueError(f"{module}: the Hub's loader would follow a line that is not an import, or miss one: {wrong}")
    return flattened, list(siblings)


def flat_name(module: str) -> str:
    """The exported name of a module: `configuration_encoder` for `seqblend.configuration.encoder`."""
    return "_".join(module.split(".")[1:])
