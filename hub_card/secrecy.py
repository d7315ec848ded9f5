"""What may not leave this machine: its paths, the tokens it knows, and what looks like a secret of anybody."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import get_token

# Environment variables that hold secrets, by what their names end with.
SECRET_VARIABLE = re.compile(
    r"(TOKENS?|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?|"
    r"(API|ACCESS|SECRET|PRIVATE|ACCOUNT|SIGNING|ENCRYPTION)_?KEY(_ID)?|(^|_)(PWD|PAT|DSN))$",
    re.IGNORECASE,
)
# Variables of every shell, which are no secrets.
HARMLESS_VARIABLES = ("PWD", "OLDPWD")
# How secrets look, by what they are. Each pattern is of bytes, as files are read.
PATTERNS = {
    "a private key": rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----",
    "a token of Hugging Face": rb"\b(?:hf|api_org)_[A-Za-z0-9]{16,}",
    "a token of GitHub": rb"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,})",
    "a token of GitLab": rb"\bglpat-[A-Za-z0-9_-]{16,}",
    "a key of AWS": rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a key of Google": rb"\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{20,}",
    "a key of an API": rb"\b(?:sk|rk|pk)[-_](?:live|test|proj|ant|or|lf)[-_][A-Za-z0-9_-]{16,}|\bsk-[A-Za-z0-9]{32,}",
    "a token of Slack": rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a token of a package registry": rb"\b(?:npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{32,})",
    "a JSON web token": rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a password in an address": rb"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"'<>]{1,64}:[^\s:/@\"'<>]{3,64}@[A-Za-z0-9]",
    # DB_PASSWORD=…, "AWS_SECRET_ACCESS_KEY": "…", also as JSON escapes it; not MAX_TOKENS=4096.
    "a secret": (
        rb"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN(?!S)|API_?KEY|ACCESS_KEY|PRIVATE_KEY|_PAT)[A-Z0-9_]{0,16}"
        rb"\\?[\"']?[ \t]*(?:=[ \t]*\\?[\"']?(?![0-9]+\b)[^\s\"'\\,;()\[\]{}<>]{4,}|:[ \t]*\\?[\"'][^\s\"'\\]{8,})"
    ),
}
SECRETS = {what: re.compile(pattern) for what, pattern in PATTERNS.items()}


def known_secrets(places: set[Path], token: str | None = None) -> Iterator[tuple[bytes, str]]:
    """What this machine knows and may not be sent, as it stands in a text and as JSON escapes it, and what that is.

    Args:
        places: directories whose paths may not be told.
        token: a token that was given.
    """
    # "/root" alone is a word of many texts; with what follows it is a path.
    paths = [f"{path}{os.sep}" if len(path.parts) < 3 else str(path) for path in (Path.home(), Path.cwd(), *places)]
    # The user's name, in a path of another disk.
    paths += [f"{os.sep}{Path.home().name}{os.sep}"]
    values = [value for name, value in os.environ.items() if is_secret(name)]
    words = [(path, "a path of this machine") for path in paths if len(path) > 2]
    words += [(secret, "a token") for secret in (token, get_token(), *values) if secret and len(secret) > 7]
    for word, what in words:
        yield word.encode("utf-8", "surrogateescape"), what
        yield json.dumps(word)[1:-1].encode(), what


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return SECRET_VARIABLE.search(name) is not None and name not in HARMLESS_VARIABLES


def first_secret(content: bytes, known: dict[bytes, str]) -> tuple[int, str] | None:
    """Where the first thing that may not be sent stands in a text, and what it is; None: there is nothing.

    Args:
        content: of a file.
        known: see known_secrets.
    """
    for word, what in known.items():
        if (at := content.find(word)) >= 0:
            return at, what
    for what, pattern in SECRETS.items():
        if (found := pattern.search(content)) is not None:
            return found.start(), what
    return None


def is_public(value: object, known: dict[bytes, str]) -> bool:
    """Whether a value, as of a row, may be shown: it holds nothing that may not be sent."""
    return first_secret(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), known) is None
