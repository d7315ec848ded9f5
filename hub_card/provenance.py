"""Whose code a saved model's directory holds: what is not this package's is not run.

Python files come with a model, and opening it with `trust_remote_code=True` runs them. They are compared, byte for
byte, with what this package exports, before anything of them runs. A file whose header names an older version is
replaced by ours, which reads the same configurations; any other is somebody else's, and only the user can trust it.
"""

from pathlib import Path

from packaging.version import Version

from ..data.objects import read_object
from ..version import __version__
from .export import FAMILIES, auto_map, family_code, written_by


class ForeignCodeError(ValueError):
    """A directory holds or names code that is not of this package, and nobody has said that it is trusted."""


def code_of(directory: Path) -> dict[str, bytes]:
    """The code that this package saves with a model of the directory's family; empty where it has no such family."""
    family = FAMILIES.get(str(read_object(directory / "config.json").get("model_type")))
    return {} if family is None else family_code(*family)


def is_of_older(path: Path) -> bool:
    """Whether a code file says that it is of an older version of this package."""
    version = written_by(path)
    return version is not None and version < Version(__version__)


def foreign_code(directory: Path) -> list[str]:
    """What a directory holds or names of code that is not of this package, a few words for each; empty: nothing."""
    config = read_object(directory / "config.json")
    family = FAMILIES.get(str(config.get("model_type")))
    own = {} if family is None else auto_map(*family)
    named = config.get("auto_map") or {}
    pairs = named.items() if isinstance(named, dict) else [("auto_map", named)]
    found = [f"config.json names {each} for {name}" for name, each in pairs if own.get(name) != each]
    if config.get("custom_pipelines"):
        found.append("config.json names custom_pipelines")
    if of_tokenizer := read_object(directory / "tokenizer_config.json").get("auto_map"):
        found.append(f"tokenizer_config.json names {of_tokenizer}")
    for name, source in code_of(directory).items():
        path = directory / name
        if path.is_file() and path.read_bytes() != source and not is_of_older(path):
            found.append(f"{name} is not what seqblend {__version__} saves")
    return found


def check_code(directory: Path, trusted: bool = False) -> None:
    """Refuse to run code that is not of this package.

    Args:
        directory: of a saved model.
        trusted: the user has said that its code may run.

    Raises:
        ForeignCodeError: there is such code, and it is not trusted; the message names it.
    """
    if not trusted and (found := foreign_code(directory)):
        raise ForeignCodeError(
            f"{directory}: {'; '.join(found)}. It is not run. To have ours in its place, load the model and save it "
            "again by save_pretrained; to run and publish it all the same, read it and say --trust_remote_code true"
        )


def renewed_code(directory: Path, place: Path, trusted: bool = False) -> dict[str, Path]:
    """Write this package's code anew where a directory has that of an older version; the directory stays as it is.

    Args:
        directory: of a saved model, looked through by check_code.
        place: where to write; made if need be.
        trusted: the code of the directory is run as it is.

    Returns:
        The new files by their names; empty where the directory has them already, or they are trusted.
    """
    code = code_of(directory)
    there = [directory / name for name in code if (directory / name).is_file()]
    if trusted or not any(map(is_of_older, there)):
        return {}
    place.mkdir(parents=True, exist_ok=True)
    for name, source in code.items():
        (place / name).write_bytes(source)
    return {name: place / name for name in code}
