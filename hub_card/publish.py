"""Push a saved model to the Hub, whole or not at all.

    python -m seqblend.hub_card.publish DIR --repo_id user/name [--private] [--create_pr] [--revision B] [--dry_run]

Code in the directory that is not this package's is not run (`provenance.py`). What is sent is chosen by name, looked
through for what is private (`contents.py`), and opened where seqblend is not installed, before the first request that
changes anything. Then it is one commit. A dry run leaves the directory as it was.
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

from ..data.errors import print_error
from ..version import __version__
from .card import MADE, Given, write_card
from .contents import PICTURES, PublishError, check_private, gather, listing, repository_files, stale_files
from .provenance import check_code, foreign_code, renewed_code
from .verify import REFERENCE, open_everywhere, open_saved, write_reference

logger = logging.getLogger(__name__)

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
    *,
    more: dict[str, Path] | None = None,
    home: str | Path | None = None,
    dry_run: bool = False,
    trust_remote_code: bool = False,
) -> CommitInfo | None:
    """Check a saved model, and push it as one commit.

    Args:
        directory: of the model, with all that belongs into the repository.
        destination: where to.
        message: of the commit.
        more: other files for the same commit, by their paths in the repository; they go before the directory's.
        home: where the user finds the model, for messages; None: the directory.
        dry_run: check, but send nothing.
        trust_remote_code: run and send code of the directory that is not of this package, too.

    Returns:
        The commit; None for a dry run.

    Raises:
        PublishError: something is missing, private, somebody else's code, or does not open; or the push did not go
            through.
    """
    with checked(directory, destination, more, home, trust_remote_code) as files:
        if dry_run:
            return None
        try:
            return send(files, destination, message)
        except Exception as error:  # every layer of the network raises its own
            raise PublishError(failure(home or directory, destination, error)) from error


@contextmanager
def checked(
    directory: str | Path,
    destination: Destination,
    more: dict[str, Path] | None = None,
    home: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Iterator[dict[str, Path]]:
    """The files that are to be sent, after every check; those that are made for it are there inside only.

    Args and Raises are those of publish.
    """
    directory, more = Path(directory), more or {}
    with tempfile.TemporaryDirectory() as place:
        laid_out = Path(place, "model")
        try:
            check_code(directory, trust_remote_code)
            own = renewed_code(directory, Path(place, "code"), trust_remote_code)
            files = {**repository_files(directory), **own}
            # Pictures belong to the card that shows them.
            files = {name: path for name, path in files.items() if "README.md" not in more or name not in PICTURES}
            files |= more
            check_private(files, destination.token)
            gather(files, laid_out)
            open_everywhere(laid_out)
        except ValueError as error:
            raise PublishError(
                f"{str(error).replace(str(laid_out), str(home or directory))}; nothing was sent"
            ) from error
        if own:
            logger.warning(
                "%s: its code is of an older seqblend; that of %s is sent in its place", directory, __version__
            )
        if found := foreign_code(directory):
            logger.warning("%s: code that is not of seqblend was trusted: %s", directory, "; ".join(found))
        yield dict(sorted(files.items()))


def send(files: dict[str, Path], destination: Destination, message: str) -> CommitInfo:
    """Send files as one commit on top of what the repository has now.

    `HfApi.upload_folder` may make several commits, of which the first does not open. What an earlier push left and
    would be wrong beside the new files is deleted: a shard beside whole weights, say.
    """
    set_patience()
    api, revision = HfApi(token=destination.token), destination.revision
    repo_id = api.create_repo(destination.repo_id, private=destination.private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    info = api.model_info(repo_id, revision=revision, timeout=get_session().timeout.read)
    if destination.private and not info.private:
        raise PublishError(f"--private: {repo_id} is there already, and public")
    additions = [CommitOperationAdd(name, path) for name, path in files.items()]
    stale = stale_files({file.rfilename for file in info.siblings or []}, files)
    # By which the commit is known again if its answer is lost.
    description = f"Pushed by seqblend {__version__}, {uuid.uuid4().hex}"
    try:
        api.preupload_lfs_files(
            repo_id, additions, revision=revision, create_pr=destination.create_pr, free_memory=False
        )
        if ignored := [each.path_in_repo for each in additions if each._should_ignore]:
            raise PublishError(f"the repository's .gitignore leaves out {', '.join(ignored)}")
        return api.create_commit(
            repo_id,
            [*(CommitOperationDelete(name) for name in stale), *additions],
            commit_message=message,
            commit_description=description,
            revision=revision,
            create_pr=destination.create_pr,
            parent_commit=info.sha,
        )
    except Exception:  # every layer of the network raises its own
        if (arrived := find_commit(api, repo_id, revision, message, description)) is None:
            raise
        return arrived


def set_patience() -> None:
    """Let requests give up after PATIENCE, unless the user has set a time of their own."""
    session = get_session()
    if session.timeout.read is None:
        session.timeout = PATIENCE


def find_commit(api: HfApi, repo_id: str, revision: str | None, message: str, description: str) -> CommitInfo | None:
    """The commit with this description, if it arrived and only the answer was lost."""
    try:
        commits = api.list_repo_commits(repo_id, revision=revision)
    except Exception:  # the Hub is not there, or not for us: then nobody knows
        return None
    for commit in commits:
        if description in commit.message:
            url = f"{api.endpoint}/{repo_id}/commit/{commit.commit_id}"
            return CommitInfo(
                commit_url=url, commit_message=message, commit_description=description, oid=commit.commit_id
            )
    return None


def failure(directory: str | Path, destination: Destination, error: Exception) -> str:
    """Why a push failed, what is safe where, and how to go on."""
    words = ["python", "-m", "seqblend.hub_card.publish", str(directory), "--repo_id", destination.repo_id]
    words += ["--private"] if destination.private else []
    words += ["--create_pr"] if destination.create_pr else []
    words += ["--revision", destination.revision] if destination.revision else []
    return (
        f"the push to {destination.repo_id} failed: {reason_of(error)}. The model is whole in {directory}; the "
        "repository is as it was, or has the whole new commit if only the answer was lost. "
        f"To go on: {shlex.join(words)}"
    )


def reason_of(error: BaseException) -> str:
    """What went wrong, in a line: what the Hub answered, if it did, or what is at the bottom of it."""
    chain = [error]
    while (deeper := chain[-1].__cause__) is not None:
        chain.append(deeper)
    for each in chain:
        if isinstance(each, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set"
        if isinstance(each, PublishError):
            return str(each)
        if isinstance(each, HfHubHTTPError):
            status, said = each.response.status_code, (each.server_message or "").strip()
            other = "the Hub has a fault; try again later" if status >= 500 else "the Hub refuses it"
            return f"{ANSWERS.get(status, other)} (HTTP {status}{': ' + said if said else ''})"
    return " ".join(f"{type(chain[-1]).__name__}: {chain[-1]}".split())


# --- The command ---


def complete(directory: Path, given: Given, into: Path, trust_remote_code: bool = False) -> dict[str, Path]:
    """Write the reference where there is none, and the card, unless somebody has written one of their own.

    Args:
        directory: of the model.
        given: what is known for the card.
        into: where to write.
        trust_remote_code: see publish.

    Returns:
        The files written, by their paths in the repository.

    Raises:
        ValueError: the model does not open, or what its run left is damaged.
    """
    names = []
    if not (directory / REFERENCE).exists():
        write_reference(open_saved(directory), into)
        names.append(REFERENCE)
    card = directory / "README.md"
    if not card.exists() or MADE in card.read_text(encoding="utf-8"):
        try:
            write_card(directory, given, into=into, trust_remote_code=trust_remote_code)
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # its run's files may hold anything
            raise ValueError(f"{directory}: what its run left is damaged ({type(error).__name__}: {error})") from error
        names += ["README.md", *(name for name in PICTURES if (into / name).exists())]
    return {name: into / name for name in names}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code is 2 where the directory or the Hub is at fault."""
    parser = argparse.ArgumentParser(prog="python -m seqblend.hub_card.publish", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="a saved model")
    parser.add_argument("--repo_id", required=True, help="user/name")
    parser.add_argument("--private", action="store_true", default=None, help="make the repository private")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request")
    parser.add_argument("--revision", help="a branch, made where there is none; default main")
    parser.add_argument("--dry_run", action="store_true", help="check all and list what would be sent")
    parser.add_argument(
        "--trust_remote_code",
        type=string_to_bool,
        nargs="?",
        const=True,
        default=False,
        help="true: run and send code of the directory that is not of seqblend, which you have read",
    )
    arguments = parser.parse_args(argv)
    if arguments.create_pr and arguments.revision:
        parser.error("--create_pr and --revision do not go together: a pull request is to main")
    try:
        run(arguments)
    except (PublishError, ValueError, OSError) as error:
        return print_error(error)
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Publish, or look whether it could be done. Raises as publish, complete and check_access do."""
    directory, trusted = arguments.directory, arguments.trust_remote_code
    destination = Destination(arguments.repo_id, arguments.private, arguments.create_pr, arguments.revision)
    repository_files(directory)
    check_code(directory, trusted)
    if not arguments.dry_run:
        destination = replace(destination, repo_id=check_access(destination))
    given = Given(repo_id=destination.repo_id, revision=destination.revision)
    if not arguments.dry_run:
        complete(directory, given, directory, trusted)
        commit = publish(directory, destination, trust_remote_code=trusted)
        print(commit.pr_url or commit.commit_url)
        return
    with tempfile.TemporaryDirectory() as place:
        made = complete(directory, given, Path(place), trusted)
        with checked(directory, destination, made, trust_remote_code=trusted) as files:
            print(*listing(files), "All is well. Nothing was sent.", sep="\n")


if __name__ == "__main__":
    sys.exit(main())
