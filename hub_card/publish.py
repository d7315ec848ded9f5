"""Push a saved model to the Hub, whole or not at all.

    python -m seqblend.hub_card.publish DIR --repo_id user/name [--private] [--create_pr] [--revision B] [--dry_run]

What is sent is chosen by name (`repository_files`), looked through for what is private, and opened where seqblend is
not installed, before the first request that changes anything. Then it is one commit.
"""

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session
from huggingface_hub.utils.sha import sha_fileobj
from transformers.dynamic_module_utils import get_relative_imports

from .card import Given, write_card
from .saved import read_saved
from .verify import REFERENCE, head_class, open_everywhere, write_reference

logger = logging.getLogger(__name__)

# What a repository holds, besides the weights and the code that config.json names. Nothing else is sent.
PUSHED = (
    *("config.json", "generation_config.json", "README.md", REFERENCE, "pictures/*.png"),
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
)
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
# What an earlier push may have left, and would be wrong beside the new files.
REPLACED = (*PUSHED, *WEIGHTS, "modeling_*.py", "configuration_*.py")
# How long a request may wait for a sign of life, in seconds; huggingface_hub would wait for ever.
PATIENCE = 300.0
# What the Hub answers, in words. Source: huggingface_hub.utils.hf_raise_for_status.
ANSWERS = {
    401: "the token is missing or not valid; log in by `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there",
    404: "there is no such repository or branch",
    409: "it is in conflict with a change that somebody else makes at the same time",
    412: "somebody else changed the repository at the same time",
    413: "a file or the whole is larger than the Hub takes",
    429: "there were too many requests; wait a while",
}


class PublishError(RuntimeError):
    """A push that did not go through. The message says why, what is where, and how to go on."""


@dataclass(frozen=True)
class Destination:
    """Where a model is pushed to.

    Args:
        repo_id: `user/name`, or a name of the user whose token it is.
        private: make the repository private when it is made; None: as the account has it.
        create_pr: open a pull request in place of a commit.
        revision: the branch; made where there is none. None: `main`.
        token: None: the one that is logged in.
    """

    repo_id: str
    private: bool | None = None
    create_pr: bool = False
    revision: str | None = None
    token: str | None = None


# --- What is sent ---


def repository_files(directory: str | Path) -> dict[str, Path]:
    """The files of a saved model that belong into its repository: their paths in it, and here.

    Raises:
        PublishError: a file without which it does not open is missing.
    """
    directory = Path(directory)
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    config = json.loads((directory / "config.json").read_text(encoding="utf-8")) if "config.json" in names else None
    if config is None or "auto_map" not in config:
        raise PublishError(f"{directory}: no model of seqblend is saved there; save it by save_pretrained")
    wanted = set(weight_files(directory)) | set(code_files(directory, config["auto_map"]))
    if missing := sorted(wanted - names):
        raise PublishError(f"{directory}: {', '.join(missing)} is missing; save the model again by save_pretrained")
    wanted |= {name for name in names if any(fnmatch(name, pattern) for pattern in PUSHED)}
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


def check_private(files: dict[str, Path], token: str | None = None) -> None:
    """Refuse to send what is nobody's business.

    Raises:
        PublishError: a file holds a path of this machine, or a token; the message names file and line, not the token.
    """
    places = {path.absolute().parent for path in files.values()}
    private = dict(private_words(places, token))
    for path in files.values():
        for word, what in private.items():
            content = text_of(path)
            if (at := content.find(word)) >= 0:
                line = content.count(b"\n", 0, at) + 1
                raise PublishError(f"{path}: line {line} holds {what}; nothing was sent")


def text_of(path: Path) -> bytes:
    """What a file says in words; of weights, the names and the metadata."""
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            return file.read(int.from_bytes(file.read(8), "little"))
        return b"" if path.suffix in (".png", ".pt", ".pth", ".bin") else file.read()


def private_words(places: set[Path], token: str | None) -> Iterator[tuple[bytes, str]]:
    """What may not be sent, and what that is."""
    for path in (Path.home(), Path.cwd(), *places):
        # "/" and "/root" stand in too many texts to mean a path.
        if len(path.parts) > 2:
            yield str(path).encode(), "a path of this machine"
    secrets = [value for name, value in os.environ.items() if name.endswith(("TOKEN", "API_KEY", "SECRET"))]
    for secret in [token, HfApi().token, *secrets]:
        if isinstance(secret, str) and len(secret) > 7:
            yield secret.encode(), "a token"


def listing(files: dict[str, Path]) -> list[str]:
    """A line for each file: SHA-256, bytes, name."""
    lines = []
    for name, path in files.items():
        with path.open("rb") as file:
            lines.append(f"{sha_fileobj(file).hex()}  {path.stat().st_size:>12,}  {name}")
    return lines


# --- Sending it ---


def check_access(destination: Destination) -> str:
    """Whether the Hub can be reached and knows who asks; to be called before anything that takes long.

    Returns:
        The full `user/name`.

    Raises:
        PublishError: it cannot, or does not, or the name is of somebody else.
    """
    set_patience()
    try:
        user = HfApi(token=destination.token).whoami()
    except Exception as error:  # every layer of the network raises its own
        raise PublishError(f"the Hub cannot be used: {reason_of(error)}") from error
    owner, _, name = destination.repo_id.rpartition("/")
    owners = [user["name"], *(organization["name"] for organization in user.get("orgs", []))]
    if owner and owner not in owners and not destination.create_pr:
        raise PublishError(f"repo_id: {destination.repo_id}: the token is of {', '.join(owners)}, not of {owner}")
    return f"{owner or user['name']}/{name}"


def publish(
    directory: str | Path,
    destination: Destination,
    message: str = "Upload model",
    more: dict[str, Path] | None = None,
    dry_run: bool = False,
) -> CommitInfo | None:
    """Check a saved model, and push it as one commit.

    Args:
        directory: of the model, with all that belongs into the repository.
        destination: where to.
        message: of the commit.
        more: other files for the same commit, by their paths in the repository.
        dry_run: check, but send nothing.

    Returns:
        The commit; None for a dry run.

    Raises:
        PublishError: something is missing, private, or does not open; or the push did not go through.
    """
    directory = Path(directory)
    files = {**repository_files(directory), **(more or {})}
    check_private(files, destination.token)
    try:
        open_everywhere(directory)
    except ValueError as error:
        raise PublishError(f"{error}; nothing was sent") from error
    return None if dry_run else send(directory, files, destination, message)


def send(directory: Path, files: dict[str, Path], destination: Destination, message: str) -> CommitInfo:
    """Send files as one commit on top of what the repository has now.

    `HfApi.upload_folder` may make several commits, of which the first does not open. Files of an earlier push that
    this one has not are deleted: a shard beside whole weights, say.

    Raises:
        PublishError: it did not go through.
    """
    set_patience()
    api, repo_id, revision = HfApi(token=destination.token), destination.repo_id, destination.revision
    before = None
    try:
        repo_id = api.create_repo(repo_id, private=destination.private, exist_ok=True).repo_id
        if revision is not None and not destination.create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        info = api.model_info(repo_id, revision=revision, timeout=get_session().timeout.read)
        before = info.sha
        there = {file.rfilename for file in info.siblings or []}
        stale = [name for name in there - set(files) if any(fnmatch(name, pattern) for pattern in REPLACED)]
        operations = [CommitOperationDelete(name) for name in sorted(stale)]
        operations += [CommitOperationAdd(name, path) for name, path in files.items()]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            revision=revision,
            create_pr=destination.create_pr,
            parent_commit=before,
        )
    except Exception as error:  # every layer of the network raises its own
        if before is not None and (arrived := commit_since(api, repo_id, revision, before, message)):
            return arrived
        raise PublishError(failure(directory, destination, error)) from error


def set_patience() -> None:
    """Let requests give up after PATIENCE, unless the user has set a time of their own."""
    session = get_session()
    if session.timeout.read is None:
        session.timeout = PATIENCE


def commit_since(api: HfApi, repo_id: str, revision: str | None, before: str, message: str) -> CommitInfo | None:
    """The commit, if it arrived and only the answer was lost."""
    try:
        newest = api.list_repo_commits(repo_id, revision=revision)[:2]
    except Exception:  # the Hub is not there, or not for us: then nobody knows
        return None
    if [commit.commit_id for commit in newest[1:]] != [before] or newest[0].title != message:
        return None
    url = f"{api.endpoint}/{repo_id}/commit/{newest[0].commit_id}"
    return CommitInfo(commit_url=url, commit_message=message, commit_description="", oid=newest[0].commit_id)


def failure(directory: Path, destination: Destination, error: Exception) -> str:
    """Why a push failed, what is safe where, and how to go on."""
    options = {
        "--private": destination.private,
        "--create_pr": destination.create_pr,
        f"--revision {destination.revision}": destination.revision,
    }
    command = shlex.join(
        ["python", "-m", "seqblend.hub_card.publish", str(directory), "--repo_id", destination.repo_id]
    )
    command = " ".join([command, *(option for option, given in options.items() if given)])
    return (
        f"the push to {destination.repo_id} failed: {reason_of(error)}. The model is whole in {directory}; the "
        f"repository is as it was, or has the whole new commit if only the answer was lost. To go on: {command}"
    )


def reason_of(error: BaseException) -> str:
    """What went wrong, in a line: what the Hub answered, if it did, or what is at the bottom of it."""
    chain = [error]
    while (deeper := chain[-1].__cause__) is not None:
        chain.append(deeper)
    for each in chain:
        if isinstance(each, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set"
        if isinstance(each, HfHubHTTPError):
            status, said = each.response.status_code, (each.server_message or "").strip()
            other = "the Hub has a fault; try again later" if status >= 500 else "the Hub refuses it"
            return f"{ANSWERS.get(status, other)} (HTTP {status}{': ' + said if said else ''})"
    return " ".join(f"{type(chain[-1]).__name__}: {chain[-1]}".split())


# --- The command ---


def complete(directory: Path, given: Given) -> None:
    """Write the card and the reference, where the run has not."""
    saved = read_saved(directory)
    if not (directory / REFERENCE).exists():
        write_reference(head_class(directory).from_pretrained(directory), directory)
    if not (directory / "README.md").exists():
        write_card(saved.directory, given)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code is 2 where the directory or the Hub is at fault."""
    parser = argparse.ArgumentParser(prog="python -m seqblend.hub_card.publish", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="a saved model")
    parser.add_argument("--repo_id", required=True, help="user/name")
    parser.add_argument("--private", action="store_true", default=None, help="make the repository private")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request")
    parser.add_argument("--revision", help="a branch, made where there is none; default main")
    parser.add_argument("--dry_run", action="store_true", help="check all and list what would be sent")
    arguments = parser.parse_args(argv)
    destination = Destination(arguments.repo_id, arguments.private, arguments.create_pr, arguments.revision)
    try:
        if not arguments.dry_run:
            check_access(destination)
        complete(arguments.directory, Given(repo_id=arguments.repo_id))
        commit = publish(arguments.directory, destination, dry_run=arguments.dry_run)
    except (PublishError, ValueError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    if commit is None:
        print("\n".join(listing(repository_files(arguments.directory))))
    else:
        print(commit.pr_url or commit.commit_url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
