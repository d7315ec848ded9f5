"""Origin of the code in the directory of a saved model: code that this package did not export is not run.

A saved model has Python files, and loading it with `trust_remote_code=True` runs them. Before that, they are compared
byte by byte with the files that this package exports. A file whose header names an older version is replaced by the
current one, which reads the same configurations. Any other file is foreign code, which runs only if it is trusted.
A model in an original format needs no code: if its directory holds or names some, it is refused.
"""

from pathlib import Path

from packaging.version import Version

from ..conversion.modules import MODULES, parse_modules
from ..data.objects import read_object
from ..version import __version__
from .export import FAMILIES, auto_map, exported_version, family_code
from .saved import original_auto_class

# Keys of config.json and tokenizer_config.json that name code.
CODE_KEYS = ("auto_map", "custom_pipelines")
# The package of the classes in modules.json that are no code of the repository.
SENTENCE_TRANSFORMERS = "sentence_transformers."


class ForeignCodeError(ValueError):
    """A directory holds or names code that is not from this package, and the user has not trusted it."""


def package_code(directory: Path) -> dict[str, bytes]:
    """The code that this package exports for the family of a saved model; empty for an unknown family."""
    family = FAMILIES.get(str(read_object(directory / "config.json").get("model_type")))
    return {} if family is None else family_code(*family)


def is_older(path: Path) -> bool:
    """Whether the header of a code file names an older version of this package."""
    version = exported_version(path)
    return version is not None and version < Version(__version__)


def older_version(directory: Path) -> Version | None:
    """The version of this package whose code a directory has, if it is an older one."""
    paths = [directory / name for name in package_code(directory)]
    return next((exported_version(path) for path in paths if path.is_file() and is_older(path)), None)


def foreign_code(directory: Path) -> list[str]:
    """Descriptions of all code in a directory that is not from this package, or that its configurations name."""
    config = read_object(directory / "config.json")
    family = FAMILIES.get(str(config.get("model_type")))
    own = {} if family is None else auto_map(*family)
    named = config.get("auto_map") or {}
    pairs = named.items() if isinstance(named, dict) else [("auto_map", named)]
    found = [f"config.json names {each} for {name}" for name, each in pairs if own.get(name) != each]
    if config.get("custom_pipelines"):
        found.append("config.json names custom_pipelines")
    if tokenizer_code := read_object(directory / "tokenizer_config.json").get("auto_map"):
        found.append(f"tokenizer_config.json names {tokenizer_code}")
    for name, source in package_code(directory).items():
        path = directory / name
        if path.is_file() and path.read_bytes() != source and not is_older(path):
            found.append(f"{name} is not what seqblend {__version__} saves")
    return found


def code_beside_original(directory: Path) -> list[str]:
    """Descriptions of all code that the directory of a model in an original format holds or names."""
    config, tokenizer = (read_object(directory / name) for name in ("config.json", "tokenizer_config.json"))
    found = [f"config.json names {config[key]}" for key in CODE_KEYS if config.get(key)]
    found += [f"tokenizer_config.json names {tokenizer[key]}" for key in CODE_KEYS if tokenizer.get(key)]
    foreign = [name for name in module_types(directory) if not name.startswith(SENTENCE_TRANSFORMERS)]
    found += [f"{MODULES} names {name}" for name in foreign]
    return found + [f"{path.relative_to(directory)} is code" for path in sorted(directory.rglob("*.py"))]


def module_types(directory: Path) -> list[str]:
    """The classes that modules.json of sentence-transformers names. Raises ValueError if it is damaged."""
    path = directory / MODULES
    modules = parse_modules(path.read_bytes(), str(path)) if path.exists() else []
    return [str(each["type"]) for each in modules if each.get("type")]


def check_code(directory: Path, trusted: bool = False) -> None:
    """Refuse code that is not from this package.

    Args:
        directory: of a saved model.
        trusted: whether the user allows the code to run; without effect for a model in an original format.

    Raises:
        ForeignCodeError: there is foreign code, and it is not trusted; the message names it.
    """
    if original_auto_class(directory) is not None:
        if found := code_beside_original(directory):
            reason = "a model in its original format needs no code; it is neither run nor sent. Remove it"
            raise ForeignCodeError(f"{directory}: {'; '.join(found)}; {reason}")
        return
    if not trusted and (found := foreign_code(directory)):
        raise ForeignCodeError(
            f"{directory}: {'; '.join(found)}. It is not run. To replace it by the code of seqblend, load the model "
            "and save it again with save_pretrained; to run and publish it, read it and give --trust_remote_code true"
        )


def update_code(directory: Path, into: Path, trusted: bool = False) -> dict[str, Path]:
    """Write the current code of this package if a directory has that of an older version.

    Args:
        directory: of a saved model that check_code has checked; it is not changed.
        into: where to write; created if it does not exist.
        trusted: the code of the directory is used unchanged.

    Returns:
        The written files by name; empty if the directory has the current code, or its code is trusted.
    """
    code = package_code(directory)
    existing = [directory / name for name in code if (directory / name).is_file()]
    if trusted or not any(map(is_older, existing)):
        return {}
    into.mkdir(parents=True, exist_ok=True)
    for name, source in code.items():
        (into / name).write_bytes(source)
    return {name: into / name for name in code}
