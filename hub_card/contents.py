"""The files of a repository: selected by exact names, complete, without links, and scanned for secrets."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub.utils.sha import sha_fileobj
from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils import ADAPTER_CONFIG_NAME

from ..conversion.checkpoint import ADAPTER_FILES, SAFETENSORS, WEIGHT_FILES
from ..conversion.modules import MODULES, read_modules
from ..conversion.origin import FILES, TEMPLATE, TEMPLATES, origin_files
from ..conversion.origin import FOLDER as ORIGINAL
from ..data.objects import read_object
from .export import FAMILIES, family_code
from .illustrate import DRAWN, EXPLORER, FOLDER
from .saved import original_auto_class, weight_files
from .secrecy import find_secret, known_secrets
from .verify import REFERENCE

# What a card shows or links to.
ILLUSTRATIONS = (EXPLORER, *(f"{FOLDER}/{name}" for name in DRAWN))
# What both kinds of repositories have besides weights and tokenizers.
COMMON = ("config.json", "generation_config.json", "README.md", REFERENCE, *ILLUSTRATIONS)
# All files that are pushed of a model of this package, besides the weights and the code that config.json names.
PUSHED = (
    *COMMON,
    # Files of the tokenizers of transformers.
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "normalizer.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "dict.txt", "vocab-src.json", "vocab-tgt.json"),
    *("target_vocab.json", "entity_vocab.json", "emoji.json", "word_shape.json", "word_pronunciation.json"),
    *("byte_maps.json", "tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model"),
    *("spm.model", "spm_char.model", "source.spm", "target.spm", "tiktoken.model", "tekken.json"),
    *("chat_template.jinja", "chat_template.json"),
)
# Files of the run that the card is made from; they are not pushed.
RECORDS = ("all_results.json", "trainer_state.json", "predictions.jsonl")
# Binary files, which are not scanned.
BINARY = (".png", ".pt", ".pth", ".bin", ".model", ".spm")


class PublishError(RuntimeError):
    """A push that failed. The message says why, which files are where, and how to continue."""


def repository_files(directory: str | Path) -> dict[str, Path]:
    """The files of a saved model that are pushed: from the path in the repository to the path on this machine.

    Of a model in an original format these are the files that to_original writes, the card and the reference.

    Raises:
        PublishError: a file is missing that is needed to load the model, or a file is a link.
    """
    directory = Path(directory)
    if (directory / ADAPTER_CONFIG_NAME).is_file():
        reason = "holds an adapter of peft; train with --merge_adapter true to push the whole model"
        raise PublishError(f"{directory}: {reason}")
    try:
        is_original = original_auto_class(directory) is not None
        code = [] if is_original else family_files(directory)
        wanted = {*weight_files(directory), *code, *module_files(directory)}
        pushed = [*COMMON, *FILES] if is_original else PUSHED
    except ValueError as error:
        raise PublishError(str(error)) from error
    if missing := sorted(name for name in wanted if not (directory / name).is_file()):
        raise PublishError(f"{directory}: {', '.join(missing)} is missing; save the model again with save_pretrained")
    templates = [each.relative_to(directory).as_posix() for each in (directory / TEMPLATES).glob("*.jinja")]
    names = [*pushed, *filter(TEMPLATE.fullmatch, templates)]
    # All names are in the directory itself or in one of these folders, so no other part of a path can be a link.
    folders = {name.partition("/")[0] for name in (*names, *wanted) if "/" in name}
    for name in sorted({*wanted, *names, *RECORDS, *folders, FOLDER, TEMPLATES, ORIGINAL}):
        check_no_link(directory, name)
    for name in [] if is_original else origin_files(directory):
        check_no_link(directory, name)
        wanted.add(name)
    wanted |= {name for name in names if (directory / name).is_file()}
    return {name: directory / name for name in sorted(wanted)}


def family_files(directory: Path) -> list[str]:
    """The files of code of a model of this package.

    Raises:
        PublishError: there is no such model.
        ValueError: see code_files.
    """
    if not directory.is_dir():
        raise PublishError(f"there is no directory {directory}")
    config = read_object(directory / "config.json")
    named = code_files(directory, config.get("auto_map"))
    if not named or config.get("model_type") not in FAMILIES:
        raise PublishError(f"{directory}: no model of seqblend is saved there; save it with save_pretrained")
    return named


def module_files(directory: Path) -> list[str]:
    """The files of sentence-transformers beside a model. Raises ValueError if modules.json is damaged."""

    def read(name: str) -> bytes | None:
        return (directory / name).read_bytes() if (directory / name).is_file() else None

    return list(read_modules(read, f"{directory / MODULES}"))


def check_no_link(directory: Path, name: str) -> None:
    """Raises PublishError if a name in a directory is a link, which may point to a file outside."""
    if (directory / name).is_symlink():
        reason = "is a link, which may lead to other files of this machine; replace it by a copy"
        raise PublishError(f"{directory / name}: {reason}")


def code_files(directory: Path, auto_map: object) -> list[str]:
    """The Python files that auto_map in config.json names, and those that they import.

    Raises:
        ValueError: a name is not that of a Python module in the directory.
    """
    references = auto_map.values() if isinstance(auto_map, dict) else []
    listed = [each for value in references for each in (value if isinstance(value, list) else [value]) if each]
    found = sorted({f"{str(reference).split('--')[-1].rpartition('.')[0]}.py" for reference in listed})
    for name in found:
        if not name.removesuffix(".py").isidentifier():
            raise ValueError(f"{directory / 'config.json'}: auto_map names {name!r}, which is not a module")
        siblings = get_relative_imports(directory / name) if (directory / name).is_file() else []
        found.extend(file for sibling in siblings if (file := f"{sibling}.py") not in found)
    return found


def stale_files(existing: set[str], files: dict[str, Path]) -> list[str]:
    """Files of an earlier push that do not fit the new files, and that transformers or the card would read.

    These are shards, pictures, references, modules, original files, files of another tokenizer, and an adapter. Where
    a model in its original format is pushed, they are also weights in other forms and the code of this package.

    Args:
        existing: paths of all files in the repository.
        files: the new files, by path in the repository.
    """
    names = {*PUSHED, *FILES, *ADAPTER_FILES} - {"README.md"}
    patterns = [*SAFETENSORS, f"{ORIGINAL}/*", f"{TEMPLATES}/*"]
    if original_auto_class(files["config.json"].parent) is not None:
        names |= {name for family in FAMILIES.values() for name in family_code(*family)}
        patterns += WEIGHT_FILES
    return sorted(
        name for name in existing - set(files) if name in names or any(fnmatch(name, each) for each in patterns)
    )


def check_no_secrets(files: dict[str, Path], token: str | None = None) -> None:
    """Scan files for local paths, tokens and other secrets.

    Raises:
        PublishError: a file holds one; the message names file, line and kind.
    """
    known = dict(known_secrets({path.absolute().parent for path in files.values()}, token))
    for path in files.values():
        content = readable_text(path)
        if (found := find_secret(content, known)) is not None:
            position, kind = found
            line = content.count(b"\n", 0, position) + 1
            raise PublishError(f"{path}: line {line} holds {kind}; nothing was sent")


def readable_text(path: Path) -> bytes:
    """The text in a file; of weights, the names of tensors and the metadata; empty for other binary files."""
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            return file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size))
        return b"" if path.suffix in BINARY else file.read()


def link_files(files: dict[str, Path], directory: Path) -> None:
    """Create links to files in a directory, by their paths in the repository; copies if links are not possible."""
    for name, path in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            (directory / name).symlink_to(path.absolute())
        except OSError:  # Windows allows links only with a special permission
            shutil.copy2(path, directory / name)


def list_files(files: dict[str, Path]) -> list[str]:
    """One line for each file (size in bytes, first digits of the SHA-256, name) and one line with the total."""
    lines, total = [], 0
    for name, path in files.items():
        size = path.stat().st_size
        with path.open("rb") as file:
            lines.append(f"{size:>14,}  {sha_fileobj(file).hex()[:12]}  {name}")
        total += size
    return [*lines, f"{total:>14,}  bytes in {len(files)} files"]
