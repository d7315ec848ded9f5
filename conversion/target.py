"""The directory that a conversion or an export writes: it replaces a saved model, but never a file of the user."""

import re
from collections.abc import Callable, Collection
from fnmatch import fnmatch
from pathlib import Path

from .checkpoint import WEIGHT_FILES, read_json
from .modules import MODULES, read_modules
from .origin import CONFIG, FILES, TEMPLATE, is_origin_file, reader
from .table import ConversionError

# The code of seqblend beside a saved model.
CODE = re.compile(r"(configuration|modeling)_\w+\.py")


def check_target(target: Path, source: str | Path, overwrite: bool, others: Collection[str] = ()) -> None:
    """Check whether a directory may be written.

    Args:
        target: the directory.
        source: what it is made from.
        overwrite: whether a saved model in it is replaced.
        others: patterns of files that may be there besides those of a saved model.

    Raises:
        ConversionError: it must not be written.
    """
    if isinstance(source, Path):
        places = source.resolve(), target.resolve()
        if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
            raise ConversionError(f"{target} and {source} overlap; give another directory")
    if target.exists() and not target.is_dir():
        raise ConversionError(f"{target} is a file")
    if target.resolve() == Path.cwd():
        raise ConversionError(f"{target} is the current directory, which cannot be replaced; give another one")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise ConversionError(f"{target} is not empty; give another directory, or --overwrite to replace a model")
    lacking = None if (target / CONFIG).is_file() else f"no {CONFIG}"
    if lacking is None and read_json(target / CONFIG).get("model_type") is None:
        lacking = f"no model_type in {CONFIG}"
    if lacking is not None:
        raise ConversionError(f"{target} is not replaced, because it holds no model ({lacking})")
    modules = read_modules(reader(target), f"{target / MODULES}")
    patterns = (CONFIG, *FILES, *WEIGHT_FILES, *others)

    def is_of_model(path: str) -> bool:
        is_named = any(fnmatch(path, pattern) for pattern in patterns) or path in modules
        return is_named or is_origin_file(path) or any(each.fullmatch(path) for each in (CODE, TEMPLATE))

    check_nothing_lost(target, is_of_model)


def check_nothing_lost(directory: Path, is_replaced: Callable[[str], bool]) -> None:
    """Raises ConversionError for a file in a directory that would be deleted with it, and is not written again.

    Args:
        directory: that is replaced.
        is_replaced: whether a file, by its path in the directory, may be deleted.
    """
    files = [path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = sorted(path.relative_to(directory).as_posix() for path in files)
    if lost := next((name for name in names if not is_replaced(name)), None):
        raise ConversionError(f"{directory} holds {lost}, which would be lost; move it to another place")
