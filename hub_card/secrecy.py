"""Scan for local paths and tokens: paths of this machine, secrets that it knows, and texts in the form of a secret."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import get_token

# Environment variables that hold secrets, recognized by the end of their names.
SECRET_VARIABLE = re.compile(
    r"(TOKENS?|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?|"
    r"(API|ACCESS|SECRET|PRIVATE|ACCOUNT|SIGNING|ENCRYPTION)_?KEY(_ID)?|(^|_)(PWD|PAT|DSN))$",
    re.IGNORECASE,
)
# Variables of every shell that match, but hold no secrets.
HARMLESS_VARIABLES = ("PWD", "OLDPWD")
# The form of known kinds of secrets. The patterns match bytes, because files are read as bytes.
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
    # DB_PASSWORD=…, "AWS_SECRET_ACCESS_KEY": "…", also with the escapes of JSON; but not MAX_TOKENS=4096.
    "a secret": (
        rb"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN(?!S)|API_?KEY|ACCESS_KEY|PRIVATE_KEY|_PAT)[A-Z0-9_]{0,16}"
        rb"\\?[\"']?[ \t]*(?:=[ \t]*\\?[\"']?(?![0-9]+\b)[^\s\"'\\,;()\[\]{}<>]{4,}|:[ \t]*\\?[\"'][^\s\"'\\]{8,})"
    ),
}
SECRETS = {kind: re.compile(pattern) for kind, pattern in PATTERNS.items()}


def known_secrets(directories: set[Path], token: str | None = None) -> Iterator[tuple[bytes, str]]:
    """Local paths and tokens of this machine that must not be published.

    Args:
        directories: further local paths that must not be published.
        token: a further token.

    Returns:
        Pairs of a secret and its kind. Each secret is yielded as plain text and with the escapes of JSON.
    """
    # A short path such as "/root" also occurs in other texts, so it must be followed by a separator.
    paths = [
        f"{path}{os.sep}" if len(path.parts) < 3 else str(path) for path in (Path.home(), Path.cwd(), *directories)
    ]
    # The name of the user in a path on another disk.
    paths += [f"{os.sep}{Path.home().name}{os.sep}"]
    values = [value for name, value in os.environ.items() if is_secret_variable(name)]
    secrets = [(path, "a path of this machine") for path in paths if len(path) > 2]
    secrets += [(value, "a token") for value in (token, get_token(), *values) if value and len(value) > 7]
    for secret, kind in secrets:
        yield secret.encode("utf-8", "surrogateescape"), kind
        yield json.dumps(secret)[1:-1].encode(), kind


def is_secret_variable(name: str) -> bool:
    """Whether an environment variable with this name holds a secret."""
    return SECRET_VARIABLE.search(name) is not None and name not in HARMLESS_VARIABLES


def find_secret(content: bytes, known: dict[bytes, str]) -> tuple[int, str] | None:
    """Search a text for secrets.

    Args:
        content: of a file.
        known: see known_secrets.

    Returns:
        The position of the secret that was found, in bytes, and its kind; None if there is none.
    """
    for secret, kind in known.items():
        if (position := content.find(secret)) >= 0:
            return position, kind
    for kind, pattern in SECRETS.items():
        if (found := pattern.search(content)) is not None:
            return found.start(), kind
    return None


def is_public(value: object, known: dict[bytes, str]) -> bool:
    """Whether a value, such as a row, contains no secret."""
    return find_secret(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), known) is None
