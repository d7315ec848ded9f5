"""Push a saved model to the Hub as one commit, after checking it.

    python -m seqblend.hub_card.publish DIR --repo_id user/name [--private] [--create_pr] [--revision B] [--dry_run]

Before the first request that changes the repository, the files are selected by name and scanned for secrets
(`contents.py`), and the model is loaded in a process without seqblend. Code in the directory that is not from this
package is not run (`provenance.py`). A dry run does not change the directory. A model in its original format
(`original.py`) is pushed in the same way.
"""

import argparse
import logging
import shlex
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session
from transformers.hf_argparser import string_to_bool
from transformers.utils.logging import disable_progress_bar

from ..data.errors import print_error
from ..data.writing import is_users_card
from ..version import __version__
from .card import CardData, write_card
from .contents import (
    ILLUSTRATIONS,
    PublishError,
    check_no_secrets,
    link_files,
    list_files,
    repository_files,
    stale_files,
)
from .original import check_complete, renew_card
from .provenance import check_code, foreign_code, update_code
from .saved import original_auto_class
from .verify import REFERENCE, load_saved, verify_isolated, write_reference

logger = logging.getLogger(__name__)

# The longest time without an answer to a request, in seconds; huggingface_hub has no limit.
TIMEOUT = 300.0
# Explanations of the Hub's answers. Source: huggingface_hub.utils.hf_raise_for_status.
STATUS_MESSAGES = {
    401: "the token is missing or not valid; log in with `hf auth login`, or set HF_TOKEN",
    403: "the token does not allow writing there",
    404: "there is no such repository or branch",
    409: "somebody else is changing the repository at the same time",
    412: "somebody else changed the repository at the same time",
    413: "a file or the whole commit is larger than the Hub allows",
    429: "there were too many requests; wait a while",
}


@dataclass(frozen=True)
class Destination:
    """Where a model is pushed to.

    Args:
        repo_id: `user/name`, or `name` for a repository of the user who owns the token.
        private: make a new repository private; None: the default of the account.
        create_pr: open a pull request instead of a commit.
        revision: the branch, created if it does not exist. None: `main`.
        token: None: the token of `hf auth login`.
    """

    repo_id: str
    private: bool | None = None
    create_pr: bool = False
    revision: str | None = None
    token: str | None = None


def check_access(destination: Destination) -> str:
    """Check that the Hub can be reached and the token may write; meant to be called before training.

    Returns:
        The full `user/name`.

    Raises:
        PublishError: the Hub cannot be reached, the token is not valid, or the repository belongs to somebody else.
    """
    set_timeout()
    try:
        user = HfApi(token=destination.token).whoami()
    except Exception as error:  # huggingface_hub and its HTTP client raise errors of any class
        raise PublishError(f"the Hub cannot be used: {describe_error(error)}") from error
    owner, _, name = destination.repo_id.rpartition("/")
    owners = [user["name"], *(organization["name"] for organization in user.get("orgs", []))]
    if owner and owner not in owners and not destination.create_pr:
        raise PublishError(f"repo_id: {destination.repo_id}: the token is of {', '.join(owners)}, not of {owner}")
    return f"{owner or user['name']}/{name}"


def publish(
    directory: str | Path,
    destination: Destination,
    message: str = "Upload model",
    *,
    extra_files: dict[str, Path] | None = None,
    display_path: str | Path | None = None,
    dry_run: bool = False,
    trust_remote_code: bool = False,
) -> CommitInfo | None:
    """Check a saved model, and push it as one commit.

    Args:
        directory: of the model, with all files of the repository: a saved model, or what write_original returned.
        destination: where to push.
        message: of the commit.
        extra_files: more files for the same commit, by path in the repository; they replace those of the directory.
        display_path: the directory named in messages, if `directory` is a temporary copy; None: `directory`.
        dry_run: check, but send nothing.
        trust_remote_code: run and send code of the directory even if it is not from this package.

    Returns:
        The commit; None for a dry run.

    Raises:
        PublishError: a file is missing, holds a secret or foreign code, or the model cannot be loaded; or the push
            failed.
    """
    with checked_files(directory, destination, extra_files, display_path, trust_remote_code) as files:
        if dry_run:
            return None
        try:
            return send_commit(files, destination, message)
        except PublishError as error:
            raise PublishError(describe_failure(display_path or directory, destination, error)) from error


@contextmanager
def checked_files(
    directory: str | Path,
    destination: Destination,
    extra_files: dict[str, Path] | None = None,
    display_path: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Iterator[dict[str, Path]]:
    """The files to send, after all checks. Generated ones exist only inside the block.

    Args and Raises are those of publish.
    """
    directory, extra_files = Path(directory), extra_files or {}
    with tempfile.TemporaryDirectory() as temporary:
        repository = Path(temporary, "model")
        try:
            if original_auto_class(directory) is not None:
                check_complete(directory)
            check_code(directory, trust_remote_code)
            updated = update_code(directory, Path(temporary, "code"), trust_remote_code)
            files = {**repository_files(directory), **updated}
            # A new card comes with its own pictures.
            has_card = "README.md" in extra_files
            files = {name: path for name, path in files.items() if not has_card or name not in ILLUSTRATIONS}
            files |= extra_files
            check_no_secrets(files, destination.token)
            link_files(files, repository)
            verify_isolated(repository)
        except ValueError as error:
            reason = str(error).replace(str(repository), str(display_path or directory))
            raise PublishError(f"{reason}; nothing was sent") from error
        if updated:
            logger.warning(
                "%s: its code is from an older seqblend; the code of %s is sent instead", directory, __version__
            )
        if found := foreign_code(directory):
            logger.warning("%s: trusted code that is not from seqblend: %s", directory, "; ".join(found))
        yield dict(sorted(files.items()))


@contextmanager
def hub_errors() -> Iterator[None]:
    """Inside the block, every error is raised as PublishError. For calls of huggingface_hub only."""
    try:
        yield
    except Exception as error:  # huggingface_hub, its HTTP client and hf_xet raise errors of any class
        raise PublishError(describe_error(error)) from error


def send_commit(files: dict[str, Path], destination: Destination, message: str) -> CommitInfo:
    """Send files as one commit on top of the current state of the repository.

    `HfApi.upload_folder` is not used, because it may make several commits, and the first one cannot be loaded. Files
    of an earlier push that do not fit the new ones are deleted, such as shards beside unsharded weights.

    Raises:
        PublishError: the Hub refuses it or cannot be reached.
    """
    set_timeout()
    api, revision = HfApi(token=destination.token), destination.revision
    with hub_errors():
        repo_id = api.create_repo(destination.repo_id, private=destination.private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        info = api.model_info(repo_id, revision=revision, timeout=get_session().timeout.read)
        additions = [CommitOperationAdd(name, path) for name, path in files.items()]
    if destination.private and not info.private:
        raise PublishError(f"--private: {repo_id} already exists and is public")
    stale = stale_files({file.rfilename for file in info.siblings or []}, files)
    # Identifies the commit, if the Hub's answer is lost.
    description = f"Pushed by seqblend {__version__}, {uuid.uuid4().hex}"
    try:
        with hub_errors():
            api.preupload_lfs_files(
                repo_id, additions, revision=revision, create_pr=destination.create_pr, free_memory=False
            )
            if ignored := [each.path_in_repo for each in additions if each._should_ignore]:
                raise PublishError(f"the .gitignore of the repository excludes {', '.join(ignored)}")
            return api.create_commit(
                repo_id,
                [*(CommitOperationDelete(name) for name in stale), *additions],
                commit_message=message,
                commit_description=description,
                revision=revision,
                create_pr=destination.create_pr,
                parent_commit=info.sha,
            )
    except PublishError:
        if (commit := find_commit(api, repo_id, revision, message, description)) is None:
            raise
        return commit


def set_timeout() -> None:
    """Set a timeout for requests, unless the user has set one."""
    session = get_session()
    if session.timeout.read is None:
        session.timeout = TIMEOUT


def find_commit(api: HfApi, repo_id: str, revision: str | None, message: str, description: str) -> CommitInfo | None:
    """The commit with this description, if it was made and only the answer was lost; else None."""
    try:
        commits = api.list_repo_commits(repo_id, revision=revision)
    except Exception:  # huggingface_hub and its HTTP client raise errors of any class; then it is not known
        return None
    for commit in commits:
        if description in commit.message:
            url = f"{api.endpoint}/{repo_id}/commit/{commit.commit_id}"
            return CommitInfo(
                commit_url=url, commit_message=message, commit_description=description, oid=commit.commit_id
            )
    return None


def describe_failure(directory: str | Path, destination: Destination, error: Exception) -> str:
    """Why a push failed, where the model is, and the command that continues."""
    command = ["python", "-m", "seqblend.hub_card.publish", str(directory), "--repo_id", destination.repo_id]
    command += ["--private"] if destination.private else []
    command += ["--create_pr"] if destination.create_pr else []
    command += ["--revision", destination.revision] if destination.revision else []
    return (
        f"the push to {destination.repo_id} failed: {describe_error(error)}. The complete model is in {directory}; "
        "the repository is unchanged, or has the complete new commit if only the answer was lost. "
        f"To continue: {shlex.join(command)}"
    )


def describe_error(error: BaseException) -> str:
    """The reason of an error in one line: the Hub's answer, if there is one, or else the first cause."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for each in chain:
        if isinstance(each, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set"
        if isinstance(each, PublishError):
            return str(each)
        if isinstance(each, HfHubHTTPError):
            status, answer = each.response.status_code, (each.server_message or "").strip()
            other = "the Hub has an internal error; try again later" if status >= 500 else "the Hub refuses it"
            return f"{STATUS_MESSAGES.get(status, other)} (HTTP {status}{': ' + answer if answer else ''})"
    return " ".join(f"{type(chain[-1]).__name__}: {chain[-1]}".split())


# --- The command ---


def write_missing_files(
    directory: Path, card_data: CardData, into: Path, trust_remote_code: bool = False
) -> dict[str, Path]:
    """Write the reference if there is none, and the card unless the user has written one.

    Args:
        directory: of the model.
        card_data: facts for the card.
        into: where to write.
        trust_remote_code: see publish.

    Returns:
        The written files, by path in the repository.

    Raises:
        ValueError: the model cannot be loaded, or a file of its run is damaged.
    """
    names, card = [], directory / "README.md"
    is_original = original_auto_class(directory) is not None
    if is_original:
        check_complete(directory)
    elif not (directory / REFERENCE).exists():
        write_reference(load_saved(directory), into)
        names.append(REFERENCE)
    if not is_users_card(card):
        try:
            if is_original:
                renew_card(directory, card_data, into)
            else:
                write_card(directory, card_data, into=into, trust_remote_code=trust_remote_code)
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # values of any type in the files
            raise ValueError(f"{directory}: a file of its run is damaged ({type(error).__name__}: {error})") from error
        names += ["README.md", *ILLUSTRATIONS]
    return {name: into / name for name in names if (into / name).exists()}


def main(argv: list[str] | None = None) -> int:
    """Run the command line. The exit code is 2 if the directory or the Hub causes an error."""
    parser = argparse.ArgumentParser(prog="seqblend publish", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="the directory of a saved model")
    parser.add_argument("--repo_id", required=True, help="the repository, as user/name")
    parser.add_argument("--private", action="store_true", default=None, help="make the repository private")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request")
    parser.add_argument("--revision", help="a branch, created if it does not exist; default: main")
    parser.add_argument(
        "--dry_run", action="store_true", help="check everything and list the files to send, but send nothing"
    )
    parser.add_argument(
        "--trust_remote_code",
        type=string_to_bool,
        nargs="?",
        const=True,
        default=False,
        help="true: run and send code in the directory that is not from seqblend; read it first",
    )
    arguments = parser.parse_args(argv)
    disable_progress_bar()
    if arguments.create_pr and arguments.revision:
        parser.error("--create_pr and --revision cannot be combined: a pull request is always to main")
    try:
        run_command(arguments)
    except (PublishError, ValueError, OSError) as error:
        return print_error(error)
    return 0


def run_command(arguments: argparse.Namespace) -> None:
    """Publish, or only check. Raises as publish, write_missing_files and check_access do."""
    directory, trusted = arguments.directory, arguments.trust_remote_code
    destination = Destination(arguments.repo_id, arguments.private, arguments.create_pr, arguments.revision)
    repository_files(directory)
    check_code(directory, trusted)
    if not arguments.dry_run:
        destination = replace(destination, repo_id=check_access(destination))
    card_data = CardData(repo_id=destination.repo_id, revision=destination.revision)
    if not arguments.dry_run:
        write_missing_files(directory, card_data, directory, trusted)
        commit = publish(directory, destination, trust_remote_code=trusted)
        print(commit.pr_url or commit.commit_url)
        return
    with tempfile.TemporaryDirectory() as temporary:
        written = write_missing_files(directory, card_data, Path(temporary), trusted)
        with checked_files(directory, destination, written, trust_remote_code=trusted) as files:
            print(*list_files(files), "All checks passed. Nothing was sent.", sep="\n")


if __name__ == "__main__":
    sys.exit(main())
