"""Load a tokenizer from a directory or the Hub."""

import os
from pathlib import Path

from transformers import AutoTokenizer, BertTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase

from ..conversion.origin import find_transformer
from ..data.errors import InputError, loading_error_line

# The substitutes for a special token that a tokenizer lacks, in this order.
SUBSTITUTES: dict[str, tuple[str, ...]] = {
    "bos_token": ("cls_token", "eos_token"),
    "eos_token": ("sep_token", "bos_token"),
    "cls_token": ("bos_token",),
    "sep_token": ("eos_token",),
    "pad_token": ("eos_token",),
}


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a directory or the Hub; missing special tokens are replaced by others that it has.

    A directory may hold only a BERT `vocab.txt`, or a GPT-2 `vocab.json` and `merges.txt`. A `vocab.txt` is treated as
    lower-cased if none of its entries has a capital letter. The tokenizer of a sentence-transformers model is in the
    folder of its transformer.

    Raises:
        InputError: it cannot be loaded, or it has no token that could begin, end or fill a sequence.
    """
    name, path = str(name_or_path), Path(os.path.expanduser(name_or_path))
    if not path.exists() and (path.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise InputError(f"tokenizer_name_or_path: no such directory: {name}")
    try:
        # With None, transformers asks on standard input whether to run code of the repository. No tokenizer needs it.
        source = str(path) if path.exists() else name
        tokenizer = _load_bare(path) or AutoTokenizer.from_pretrained(
            source, subfolder=find_transformer(source), trust_remote_code=False
        )
    except Exception as error:  # transformers and tokenizers raise whatever they meet
        raise InputError(f"tokenizer_name_or_path: {name!r} cannot be loaded ({loading_error_line(error)})") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        # transformers makes an empty one if there are no files.
        raise InputError(f"tokenizer_name_or_path: {name!r} has no tokenizer, or one with special tokens only")
    # The code that auto_map names is not saved with the tokenizer.
    tokenizer.init_kwargs.pop("auto_map", None)
    _fill_special_tokens(tokenizer, name)
    return tokenizer


def _load_bare(path: Path) -> PreTrainedTokenizerBase | None:
    """Load a directory that holds vocabulary files only, for which AutoTokenizer knows no class."""
    if not path.is_dir() or any((path / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    if (path / "vocab.txt").exists():
        entries = (path / "vocab.txt").read_text(encoding="utf-8").splitlines()
        cased = any(entry != entry.lower() for entry in entries if not entry.startswith("["))
        return BertTokenizer.from_pretrained(str(path), do_lower_case=not cased, trust_remote_code=False)
    if (path / "vocab.json").exists() and (path / "merges.txt").exists():
        return GPT2Tokenizer.from_pretrained(str(path), trust_remote_code=False)
    return None


def _fill_special_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Replace missing special tokens by SUBSTITUTES. Raises InputError for a token without a substitute."""
    for missing, substitutes in SUBSTITUTES.items():
        if getattr(tokenizer, missing) is not None:
            continue
        token = next((found for other in substitutes if (found := getattr(tokenizer, other)) is not None), None)
        if token is None:
            raise InputError(
                f"tokenizer_name_or_path: {name!r} has no {missing}, and none of {', '.join(substitutes)} instead"
            )
        setattr(tokenizer, missing, token)
