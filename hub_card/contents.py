"""What a repository holds: chosen by name, complete, and nothing that is nobody's business."""

import json
import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.utils.sha import sha_fileobj
from transformers.dynamic_module_utils import get_relative_imports

from .illustrate import DRAWN, FOLDER
from .verify import REFERENCE

# What may stand in a repository besides the weights and the code that config.json names. Nothing else is sent.
PICTURES = tuple(f"{FOLDER}/{name}" for name in DRAWN)
PUSHED = (
    *("config.json", "generation_config.json", "README.md", REFERENCE, *PICTURES),
    # Of tokenizers, by the names that transformers' own have.
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "*vocab*", "merges.txt", "bpe.codes"),
    *("*.model", "*.spm", "*.jinja", "additional_chat_templates/*.jinja"),
)
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
# Files that say nothing in words.
BINARY = (".png", ".pt", ".pth", ".bin", ".model", ".spm")


class PublishError(RuntimeError):
    """A push that did not go through. The message says why, what is where, and how to go on."""


def repository_files(directory: str | Path) -> dict[str, Path]:
    """The files of a saved model that belong into its repository: their paths in it, and here.

    Raises:
        PublishError: a file without which it does not open is missing.
    """
    directory = Path(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "auto_map" not in config:
        raise PublishError(f"{directory}: no model of seqblend is saved there; save it by save_pretrained")
    wanted = {*weight_files(directory), *code_files(directory, config["auto_map"])}
    if missing := sorted(name for name in wanted if not (directory / name).is_file()):
        raise PublishError(f"{directory}: {', '.join(missing)} is missing; save the model again by save_pretrained")
    beside = (each for pattern in PUSHED for each in directory.glob(pattern) if each.is_file())
    wanted |= {each.relative_to(directory).as_posix() for each in beside}
    return {name: directory / name for name in sorted(wanted)}


def weight_files(directory: Path) -> list[str]:
    """The files of the weights, in one piece or in shards with their index."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists() or not index.exists():
        return ["model.safetensors"]
    return [index.name, *sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]


def code_files(directory: Path, auto_map: dict[str, str]) -> list[str]:
    """The files that config.json names code in, and those they import from; other Python files are the user's own."""
    found = sorted({f"{reference.split('--')[-1].split('.')[0]}.py" for reference in auto_map.values()})
    for name in found:
        siblings = get_relative_imports(directory / name) if (directory / name).exists() else []
        found.extend(file for sibling in siblings if (file := f"{sibling}.py") not in found)
    return found


def stale_files(there: set[str], files: dict[str, Path]) -> list[str]:
    """What an earlier push left and would be wrong beside the new files: weights cut otherwise, and old pictures."""
    return sorted(
        name
        for name in there - set(files)
        if name in PICTURES or name == REFERENCE or any(fnmatch(name, pattern) for pattern in WEIGHTS)
    )


def check_private(files: dict[str, Path], token: str | None = None) -> None:
    """Refuse to send what is nobody's business.

    Raises:
        PublishError: a file holds a path of this machine, or a token; the message names file and line, not the token.
    """
    private = dict(private_words({path.absolute().parent for path in files.values()}, token))
    for path in files.values():
        content = text_of(path)
        for word, what in private.items():
            if (at := content.find(word)) >= 0:
                line = content.count(b"\n", 0, at) + 1
                raise PublishError(f"{path}: line {line} holds {what}; nothing was sent")


def text_of(path: Path) -> bytes:
    """What a file says in words; of weights, the names and the metadata."""
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            return file.read(int.from_bytes(file.read(8), "little"))
        return b"" if path.suffix in BINARY else file.read()


def private_words(places: set[Path], token: str | None) -> Iterator[tuple[bytes, str]]:
    """What may not be sent, as it stands in a text and as JSON escapes it, and what that is."""
    # "/root" alone is a word of many texts; with what follows it is a path.
    paths = [f"{path}{os.sep}" if len(path.parts) < 3 else str(path) for path in (Path.home(), Path.cwd(), *places)]
    # The user's name, in a path of another disk.
    paths += [f"{os.sep}{Path.home().name}{os.sep}"]
    secrets = [value for name, value in os.environ.items() if name.endswith(("TOKEN", "API_KEY", "SECRET"))]
    words = [(path, "a path of this machine") for path in paths if len(path) > 2]
    words += [(secret, "a token") for secret in (token, get_token(), *secrets) if secret and len(secret) > 7]
    for word, what in words:
        yield word.encode(), what
        yield json.dumps(word)[1:-1].encode(), what


def gather(files: dict[str, Path], place: Path) -> None:
    """Lay files out as a repository has them, as links, or, where there are none, as copies."""
    for name, path in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            (place / name).symlink_to(path.absolute())
        except OSError:  # links need a right of their own on some systems
            shutil.copy2(path, place / name)


def listing(files: dict[str, Path]) -> list[str]:
    """A line for each file: bytes, the first digits of its SHA-256, name; and a line for all of them."""
    lines, total = [], 0
    for name, path in files.items():
        size = path.stat().st_size
        with path.open("rb") as file:
            lines.append(f"{size:>14,}  {sha_fileobj(file).hex()[:12]}  {name}")
        total += size
    return [*lines, f"{total:>14,}  bytes in {len(files)} files"]
