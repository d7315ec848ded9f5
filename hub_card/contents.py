"""What a repository holds: chosen by exact names, complete, from inside the directory, and without secrets."""

import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub.utils.sha import sha_fileobj
from transformers.dynamic_module_utils import get_relative_imports

from ..conversion.origin import FOLDER as ORIGINAL
from ..conversion.origin import origin_files
from ..data.objects import read_object
from .export import FAMILIES
from .illustrate import DRAWN, FOLDER
from .secrecy import first_secret, known_secrets
from .verify import REFERENCE

# What may stand in a repository besides the weights and the code that config.json names. Nothing else is sent.
PICTURES = tuple(f"{FOLDER}/{name}" for name in DRAWN)
PUSHED = (
    *("config.json", "generation_config.json", "README.md", REFERENCE, *PICTURES),
    # Of tokenizers, by the names that transformers' own have.
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "normalizer.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "dict.txt", "vocab-src.json", "vocab-tgt.json"),
    *("target_vocab.json", "entity_vocab.json", "emoji.json", "word_shape.json", "word_pronunciation.json"),
    *("byte_maps.json", "tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model"),
    *("spm.model", "spm_char.model", "source.spm", "target.spm", "tiktoken.model", "tekken.json"),
    *("chat_template.jinja", "chat_template.json"),
)
# A tokenizer's other chat templates, by the names that it is asked for them.
TEMPLATES = "additional_chat_templates"
TEMPLATE = re.compile(r"[\w-]+\.jinja")
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
# What the card is made from; it stays here.
RECORDS = ("all_results.json", "trainer_state.json", "predictions.jsonl")
# Files that say nothing in words.
BINARY = (".png", ".pt", ".pth", ".bin", ".model", ".spm")


class PublishError(RuntimeError):
    """A push that did not go through. The message says why, what is where, and how to go on."""


def repository_files(directory: str | Path) -> dict[str, Path]:
    """The files of a saved model that belong into its repository: their paths in it, and here.

    Raises:
        PublishError: a file without which it does not open is missing; or one leads out of the directory.
    """
    directory = Path(directory)
    try:
        config = read_object(directory / "config.json")
        named = code_files(directory, config.get("auto_map"))
        if not named or config.get("model_type") not in FAMILIES:
            raise PublishError(f"{directory}: no model of seqblend is saved there; save it by save_pretrained")
        wanted = {*weight_files(directory), *named}
    except ValueError as error:
        raise PublishError(str(error)) from error
    if missing := sorted(name for name in wanted if not (directory / name).is_file()):
        raise PublishError(f"{directory}: {', '.join(missing)} is missing; save the model again by save_pretrained")
    templates = [each.relative_to(directory).as_posix() for each in (directory / TEMPLATES).glob("*.jinja")]
    names = [*PUSHED, *filter(lambda name: TEMPLATE.fullmatch(Path(name).name), templates)]
    # Every name is that of a file in the directory or in one of the two folders; so no other link is on the way.
    for name in sorted({*wanted, *names, *RECORDS, FOLDER, TEMPLATES, ORIGINAL}):
        check_no_link(directory, name)
    for name in origin_files(directory):
        check_no_link(directory, name)
        wanted.add(name)
    wanted |= {name for name in names if (directory / name).is_file()}
    return {name: directory / name for name in sorted(wanted)}


def check_no_link(directory: Path, name: str) -> None:
    """Raises PublishError where a name of a directory is a link: what is there is not the model's."""
    if (directory / name).is_symlink():
        reason = "is a link, which may lead to other files of this machine; put a copy in its place"
        raise PublishError(f"{directory / name}: {reason}")


def weight_files(directory: Path) -> list[str]:
    """The files of the weights, in one piece or in shards with their index.

    Raises:
        ValueError: the index is damaged, or names a file that is no shard.
    """
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists() or not index.exists():
        return ["model.safetensors"]
    named = read_object(index).get("weight_map")
    shards = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    if wrong := [name for name in shards or [""] if not SHARD.fullmatch(name)]:
        raise ValueError(f"{index}: weight_map names {wrong[0]!r}, which is no shard as save_pretrained names them")
    return [index.name, *shards]


def code_files(directory: Path, auto_map: object) -> list[str]:
    """The files that config.json names code in, and those they import from; other Python files are the user's own.

    Raises:
        ValueError: a name is none of a Python file in the directory.
    """
    references = auto_map.values() if isinstance(auto_map, dict) else []
    listed = [each for value in references for each in (value if isinstance(value, list) else [value]) if each]
    found = sorted({f"{str(reference).split('--')[-1].rpartition('.')[0]}.py" for reference in listed})
    for name in found:
        if not name.removesuffix(".py").isidentifier():
            raise ValueError(f"{directory / 'config.json'}: auto_map names {name!r}, which is no module")
        siblings = get_relative_imports(directory / name) if (directory / name).is_file() else []
        found.extend(file for sibling in siblings if (file := f"{sibling}.py") not in found)
    return found


def stale_files(there: set[str], files: dict[str, Path]) -> list[str]:
    """What an earlier push left and would be wrong beside the new files: weights cut otherwise, and old pictures."""
    return sorted(
        name
        for name in there - set(files)
        if name in PICTURES
        or name == REFERENCE
        or any(fnmatch(name, pattern) for pattern in (*WEIGHTS, f"{ORIGINAL}/*"))
    )


def check_private(files: dict[str, Path], token: str | None = None) -> None:
    """Refuse to send what is nobody's business.

    Raises:
        PublishError: a file holds a path of this machine, or a secret; the message names file, line and kind.
    """
    known = dict(known_secrets({path.absolute().parent for path in files.values()}, token))
    for path in files.values():
        content = text_of(path)
        if (found := first_secret(content, known)) is not None:
            at, what = found
            line = content.count(b"\n", 0, at) + 1
            raise PublishError(f"{path}: line {line} holds {what}; nothing was sent")


def text_of(path: Path) -> bytes:
    """What a file says in words; of weights, the names and the metadata."""
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            return file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size))
        return b"" if path.suffix in BINARY else file.read()


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
