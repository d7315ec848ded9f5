"""A Hub for tests on loopback: model repositories behind the HTTP that huggingface_hub's client speaks.

    with LoopbackHub(tokens={"hf_writer": "someone"}) as hub:
        HfApi(endpoint=hub.endpoint, token="hf_writer").create_repo("someone/model")

Files move by LFS over HTTP, so the client must have HF_HUB_DISABLE_XET=1. What the client's source leaves open is as
the real Hub was seen to answer. A 404: xet, discussions, settings, data sets, spaces. No .gitignore is obeyed.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import socketserver
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import yaml  # not in the standard library, but the package requires it

# A status is answered as the Hub answers it. "refuse" closes before any byte of an answer: as near to a refused
# connection as a listening server can come. "cut_request" resets the connection in the request, which is not applied;
# "cut_reply" applies the request and closes in the reply. "hang" keeps silent until the client or the hub closes.
Fault = int | Literal["refuse", "cut_request", "cut_reply", "hang"]
FaultFunction = Callable[[int, str, str], Fault | None]

# Seconds in which threads that have nothing to wait for end, however busy the machine is.
PATIENCE = 60.0
LFS_SUFFIXES = (".safetensors", ".bin", ".png")
LFS_SIZE = 10 * 2**20  # bytes; a larger file is LFS whatever its name

# What the Hub wants in a card's model-index. What has a question mark may be missing.
DATASET = {"type": str, "name": str, "config?": str, "split?": str}
RESULT = {"task": {"type": str}, "dataset": DATASET, "metrics": [{"type": str, "value": object, "config?": str}]}
MODEL_INDEX = [{"name": str, "results": [RESULT]}]
KINDS = {list: "an array", dict: "of type object", str: "a string"}


class HubError(Exception):
    """An answer other than success; from `code`, X-Error-Code, the client picks the class of its exception."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


def git_hash(kind: str, content: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


@dataclass(frozen=True)
class File:
    content: bytes
    is_lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def in_git(self) -> bytes:
        """What git keeps: the content, or LFS's pointer to it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return pointer.encode() if self.is_lfs else self.content

    @property
    def blob_id(self) -> str:
        return git_hash("blob", self.in_git)

    @property
    def etag(self) -> str:
        """What the client knows a file by, in its cache and when it leaves out what has not changed."""
        return self.sha256 if self.is_lfs else self.blob_id

    def info(self) -> dict[str, Any]:
        lfs = {"oid": self.sha256, "sha256": self.sha256, "size": len(self.content), "pointerSize": len(self.in_git)}
        info = {"oid": self.blob_id, "blobId": self.blob_id, "size": len(self.content)}
        return info | ({"lfs": lfs} if self.is_lfs else {})


@dataclass(frozen=True)
class Commit:
    parent: "Commit | None"
    title: str
    description: str
    author: str
    files: dict[str, File]

    @cached_property
    def id(self) -> str:
        blobs = {path: file.blob_id for path, file in sorted(self.files.items())}
        parts = [self.parent and self.parent.id, self.title, self.description, blobs]
        return git_hash("commit", json.dumps(parts).encode())

    @cached_property
    def history(self) -> list["Commit"]:
        """This commit and those before it, newest first."""
        return [self, *(self.parent.history if self.parent else [])]

    @property
    def date(self) -> str:
        """A second after the parent's, so that nothing depends on the clock."""
        minutes, seconds = divmod(len(self.history), 60)
        return f"2024-01-01T00:{minutes:02}:{seconds:02}.000Z"


class Repository:
    """A model repository: its commits, the refs to some of them, and the contents of LFS files."""

    def __init__(self, name: str, private: bool):
        self.name, self.private, self.owner = name, private, name.split("/")[0]
        self.objects: dict[str, bytes] = {}  # by sha256
        self.parts: dict[str, dict[int, bytes]] = defaultdict(dict)  # of objects that are on their way, by number
        self.by_id: dict[str, Commit] = {}  # no commit is forgotten, even if no ref leads to it
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        first = Commit(None, "initial commit", "", self.owner, {".gitattributes": File(attributes.encode())})
        self.refs = {"refs/heads/main": self.by_id.setdefault(first.id, first)}

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Each file's content at a branch, a tag, a pull request's ref or a commit id."""
        return {path: file.content for path, file in self.find(revision).files.items()}

    def commits(self, revision: str = "main") -> list[Commit]:
        """The commits up to a revision, newest first."""
        return self.find(revision).history

    def ref(self, revision: str, kinds: tuple[str, ...]) -> str | None:
        return next((kind + revision for kind in kinds if kind + revision in self.refs), None)

    def find(self, revision: str) -> Commit:
        if ref := self.ref(revision, ("refs/heads/", "refs/tags/", "")):
            return self.refs[ref]
        found = [commit for key, commit in self.by_id.items() if len(revision) > 6 and key.startswith(revision)]
        if len(found) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def commit(self, revision: str, lines: list[dict], author: str, create_pr: bool) -> tuple[Commit, str]:
        """Apply a commit's operations, all of them or none; the new commit, and the ref that is at it."""
        ref = self.ref(revision, ("refs/heads/", ""))
        if ref is None or ref.startswith("refs/tags/"):
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if not lines or lines[0]["key"] != "header" or not lines[0]["value"]["summary"]:
            raise HubError(400, "A commit needs a header, and that a summary")
        header, parent = lines[0]["value"], self.refs[ref]
        if create_pr:
            parent = self.find(header.get("parentCommit", parent.id))
            ref = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in self.refs)}"
        elif not parent.id.startswith(header.get("parentCommit", "")):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for line in lines[1:]:
            self.apply(files, line["key"], line["value"])
        made = Commit(parent, header["summary"], header.get("description", ""), author, files)
        self.refs[ref] = self.by_id.setdefault(made.id, made)
        return self.refs[ref], ref

    def apply(self, files: dict[str, File], kind: str, value: dict[str, Any]) -> None:
        """Change files by one line of a commit."""
        path, oid = value["path"], value.get("oid")
        if kind == "file":
            files[path] = File(base64.b64decode(value["content"], validate=True))
            if path == "README.md" and (errors := card_errors(files[path].content.decode())):
                raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        elif kind == "lfsFile":
            if oid not in self.objects:
                raise HubError(400, f"An LFS pointer pointed to a file that does not exist: {path}")
            files[path] = File(self.objects[oid], is_lfs=True)
        elif kind in ("deletedFile", "deletedFolder"):
            folder = path.rstrip("/") + "/"
            gone = [name for name in files if (name == path if kind == "deletedFile" else name.startswith(folder))]
            if not gone:
                raise HubError(404, f"A {kind[7:].lower()} with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"Unknown operation {kind}")

    def put_object(self, oid: str, content: bytes) -> None:
        if File(content).sha256 != oid:
            raise HubError(400, f"These {len(content)} bytes are not the object {oid}")
        self.objects[oid] = content


def listing(files: dict[str, File], folder: str = "", recursive: bool = True) -> list[dict[str, Any]]:
    """The files and folders in a folder, as the client reads them."""
    prefix = f"{folder}/" if folder else ""
    inside = {path: file for path, file in files.items() if path.startswith(prefix)}
    entries = {path: {"type": "file", "path": path, **file.info()} for path, file in inside.items()}
    for name in {str(parent) for path in inside for parent in PurePosixPath(path).parents}:
        if name != "." and name.startswith(prefix):
            entries[name] = {"type": "directory", "path": name, "oid": git_hash("tree", name.encode()), "size": 0}
    return [entries[path] for path in sorted(entries) if recursive or "/" not in path[len(prefix) :]]


def card_errors(text: str) -> list[str]:
    """Why the Hub would refuse a card: YAML that is none, or a wrong model-index (all that is looked at here)."""
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    try:
        metadata = yaml.safe_load(found[1] if found else "") or {}
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"]
    if not isinstance(metadata, dict):
        return ["The metadata must be of type object"]
    return shape_errors("model-index", metadata["model-index"], MODEL_INDEX) if "model-index" in metadata else []


def shape_errors(where: str, value: Any, shape: Any) -> list[str]:
    """Where a value is not of a shape: of a type, or a list of one shape, or a dict of a shape for each key."""
    kind = shape if isinstance(shape, type) else type(shape)
    if not isinstance(value, kind):
        return [f'"{where}" must be {KINDS[kind]}']
    errors = []
    for index, item in enumerate(value if isinstance(shape, list) else []):
        errors += shape_errors(f"{where}[{index}]", item, shape[0])
    for key, inner in shape.items() if isinstance(shape, dict) else []:
        name = key.rstrip("?")
        if name in value:
            errors += shape_errors(f"{where}.{name}", value[name], inner)
        elif name == key:
            errors.append(f'"{where}.{name}" is required')
    return errors


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> "Reply":
        return cls(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})

    @classmethod
    def error(cls, error: HubError) -> "Reply":
        headers = {"X-Error-Message": " ".join(error.message.split()), **error.headers}
        headers |= {"X-Error-Code": error.code} if error.code else {}
        headers |= {"Retry-After": "0"} if error.status == 429 else {}
        return cls.json({"error": error.message}, error.status, headers)


@dataclass
class Api:
    """One request; each method answers one of the ROUTES, with a reply or with data that are sent as JSON."""

    hub: "LoopbackHub"
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def asks(self, name: str) -> bool:
        return self.query.get(name, [""])[0] in ("1", "true")

    @property
    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def known_user(self) -> str:
        if self.user is None:
            # The client takes a 401 for a missing repository by the address if that is https, but here by the code.
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        return self.user

    def repository(self, name: str, access: str) -> Repository:
        """The repository, if the user may do with it what is asked; "signed" is who has the address, as on S3."""
        repo = self.hub.repos.get(name)
        if repo is not None and access == "signed":
            return repo
        if repo is None or (repo.private and self.user != repo.owner):
            raise HubError(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if access == "write" and self.known_user() != repo.owner:
            raise HubError(403, f"{self.user} may not write to {name}")
        return repo

    def whoami(self) -> Any:
        return {"type": "user", "name": self.known_user(), "fullname": self.user, "orgs": []}

    def owned_name(self) -> str:
        """The name of the repository to create or delete, which must be the user's own."""
        user, kind = self.known_user(), self.json.get("type") or "model"
        if kind != "model":
            raise HubError(404, f"There is no {kind} on this hub, only models")
        if self.json.get("organization") not in (None, user):
            raise HubError(403, f'You don\'t have the rights to the namespace "{self.json["organization"]}"')
        return f"{user}/{self.json['name']}"

    def create_repo(self) -> Any:
        name, private = self.owned_name(), self.json.get("private") or self.json.get("visibility") == "private"
        data = {"url": f"{self.hub.endpoint}/{name}", "name": name}
        if name in self.hub.repos:  # the client reads the url from this answer too
            return Reply.json({"error": "You already created this model repo", **data}, 409)
        self.hub.repos[name] = Repository(name, bool(private))
        return data

    def delete_repo(self) -> Any:
        if self.hub.repos.pop(self.owned_name(), None) is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return {}

    def validate_yaml(self) -> Any:
        errors = [{"message": error} for error in card_errors(self.json["content"])]
        return Reply.json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def model_info(self, repo: Repository, rev: str = "main") -> Any:
        commit, blobs = repo.find(rev), self.asks("blobs")
        files = [{"rfilename": path, **(file.info() if blobs else {})} for path, file in sorted(commit.files.items())]
        data = {"id": repo.name, "author": repo.owner, "private": repo.private, "sha": commit.id, "siblings": files}
        return data | {"createdAt": commit.history[-1].date, "lastModified": commit.date, "gated": False, "tags": []}

    def tree(self, repo: Repository, rev: str, path: str = "") -> Any:
        entries = listing(repo.find(rev).files, path, self.asks("recursive"))
        if path and not entries:
            raise HubError(404, f"{path} does not exist on {rev}", "EntryNotFound")
        return entries

    def paths_info(self, repo: Repository, rev: str) -> Any:
        paths = parse_qs(self.body.decode()).get("paths", [])
        return [entry for entry in listing(repo.find(rev).files) if entry["path"] in paths]

    def list_refs(self, repo: Repository) -> Any:
        data: dict[str, list] = {"converts": []}
        for kind, start in {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}.items():
            found = [(ref, commit) for ref, commit in repo.refs.items() if ref.startswith(start)]
            data[kind] = [{"name": ref.removeprefix(start), "ref": ref, "targetCommit": to.id} for ref, to in found]
        return data

    def list_commits(self, repo: Repository, rev: str) -> Any:
        return [
            {"id": commit.id, "title": commit.title, "message": commit.description, "date": commit.date}
            | {"authors": [{"user": commit.author}]}
            for commit in repo.commits(rev)
        ]

    def create_ref(self, repo: Repository, kind: str, rev: str) -> Any:
        name = f"refs/heads/{rev}" if kind == "branch" else f"refs/tags/{self.json['tag']}"
        if name in repo.refs:
            raise HubError(409, f"Reference already exists: {name}")
        repo.refs[name] = repo.find(rev if kind == "tag" else self.json.get("startingPoint", "main"))
        return {}

    def delete_ref(self, repo: Repository, kind: str, rev: str) -> Any:
        name = f"refs/heads/{rev}" if kind == "branch" else f"refs/tags/{rev}"
        if name not in repo.refs or name == "refs/heads/main":
            raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        del repo.refs[name]
        return {}

    def preupload(self, repo: Repository, rev: str) -> Any:
        known, files = repo.find(rev).files, []
        for file in self.json["files"]:
            path, is_binary = file["path"], b"\0" in base64.b64decode(file["sample"])
            is_lfs = path.endswith(LFS_SUFFIXES) or file["size"] > LFS_SIZE or is_binary
            files.append({"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False})
            if path in known:
                files[-1]["oid"] = known[path].etag
        return {"files": files}

    def lfs_batch(self, repo: Repository) -> Any:
        """Where to put each object that is not here yet: at one address, or at one for each part."""
        answers, part_size = [], self.hub.part_size
        for item in self.json["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            answers.append(answer)
            if item["oid"] in repo.objects:
                continue
            upload: dict[str, Any] = {"href": f"{self.hub.endpoint}/lfs/{repo.name}/{item['oid']}"}
            if item["size"] > part_size:
                count = -(-item["size"] // part_size)
                parts = {str(number): f"{upload['href']}/{number}" for number in range(1, count + 1)}
                upload["header"] = {"chunk_size": str(part_size), **parts}
            verify = {"href": f"{self.hub.endpoint}/{repo.name}.git/info/lfs/objects/verify"}
            answer["actions"] = {"upload": upload, "verify": verify}
        return {"transfer": "basic", "objects": answers}

    def put_object(self, repo: Repository, oid: str) -> Any:
        repo.put_object(oid, self.body)
        return {}

    def put_part(self, repo: Repository, oid: str, part: str) -> Any:
        repo.parts[oid][int(part)] = self.body
        return Reply(headers={"ETag": f'"{git_hash("blob", self.body)}"'})

    def complete_object(self, repo: Repository, oid: str) -> Any:
        repo.put_object(oid, b"".join(repo.parts[oid][part["partNumber"]] for part in self.json["parts"]))
        return {}

    def verify_object(self, repo: Repository) -> Any:
        if len(repo.objects.get(self.json["oid"], b"")) != self.json["size"]:
            raise HubError(404, f"No object {self.json['oid']} of {self.json['size']} bytes")
        return {}

    def commit(self, repo: Repository, rev: str) -> Any:
        lines = [json.loads(line) for line in self.body.splitlines()]
        made, ref = repo.commit(rev, lines, self.known_user(), self.asks("create_pr"))
        url = f"{self.hub.endpoint}/{repo.name}"
        pull_request = f"{url}/discussions/{ref.removeprefix('refs/pr/')}" if self.asks("create_pr") else None
        return {"commitOid": made.id, "commitUrl": f"{url}/commit/{made.id}", "pullRequestUrl": pull_request}

    def resolve(self, repo: Repository, rev: str, path: str) -> Reply:
        commit = repo.find(rev)
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", headers)
        file, size = commit.files[path], len(commit.files[path].content)
        headers["ETag"] = f'"{file.etag}"'
        if file.is_lfs:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(size)}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return Reply(200, file.content, headers)
        first, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
        if first >= end:
            raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        return Reply(206, file.content[first:end], headers)


MODEL = "/api/models/(?P<repo>[^/]+/[^/]+)"
REPO, REV, PATH, OID = "(?P<repo>[^/]+/[^/]+)", "(?P<rev>[^/]+)", "(?P<path>.+)", "(?P<oid>[0-9a-f]{64})"
KIND = "(?P<kind>branch|tag)"

# Methods and path as they are sent (a slash in a revision is %2F), what rights to the repository it takes, the answer.
ROUTES = [
    ("GET", "/api/whoami-v2", None, Api.whoami),
    ("POST", "/api/repos/create", None, Api.create_repo),
    ("DELETE", "/api/repos/delete", None, Api.delete_repo),
    ("POST", "/api/validate-yaml", None, Api.validate_yaml),
    ("GET", f"{MODEL}(/revision/{REV})?", "read", Api.model_info),
    ("GET", f"{MODEL}/tree/{REV}(/{PATH})?", "read", Api.tree),
    ("POST", f"{MODEL}/paths-info/{REV}", "read", Api.paths_info),
    ("GET", f"{MODEL}/refs", "read", Api.list_refs),
    ("GET", f"{MODEL}/commits/{REV}", "read", Api.list_commits),
    ("POST", f"{MODEL}/{KIND}/{REV}", "write", Api.create_ref),
    ("DELETE", f"{MODEL}/{KIND}/{REV}", "write", Api.delete_ref),
    ("POST", f"{MODEL}/preupload/{REV}", "write", Api.preupload),
    ("POST", f"/{REPO}\\.git/info/lfs/objects/batch", "write", Api.lfs_batch),
    ("PUT", f"/lfs/{REPO}/{OID}", "signed", Api.put_object),
    ("PUT", f"/lfs/{REPO}/{OID}/(?P<part>\\d+)", "signed", Api.put_part),
    ("POST", f"/lfs/{REPO}/{OID}", "signed", Api.complete_object),
    ("POST", f"/{REPO}\\.git/info/lfs/objects/verify", "write", Api.verify_object),
    ("POST", f"{MODEL}/commit/{REV}", "write", Api.commit),
    ("GET HEAD", f"/{REPO}/resolve/{REV}/{PATH}", "read", Api.resolve),
]

# What the Hub says to a token that ran out, and of a repository that is gone.
STATUS_FAULTS = {
    401: HubError(401, "Invalid credentials in Authorization header"),
    404: HubError(404, "Repository not found", "RepoNotFound"),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Server"

    def handle(self) -> None:
        connections = self.server.hub.connections
        connections.add(self.connection)
        try:
            with contextlib.suppress(ConnectionError):  # a client may leave when it likes
                super().handle()
        finally:
            connections.discard(self.connection)

    def respond(self) -> None:
        """Answer a request, or break off as the hub's fault says."""
        fault = self.server.hub.note(self.command, self.path)
        size = int(self.headers.get("Content-Length", 0))
        if fault == "cut_request":
            self.rfile.read(size // 2)
            self.reset()
            return
        body = self.rfile.read(size)
        if len(body) < size or fault in ("refuse", "hang", "cut_reply"):
            self.close_connection = True
        if fault == "hang":
            self.connection.recv(1, socket.MSG_PEEK)  # returns when the client or the hub closes
        elif isinstance(fault, int):
            self.send(Reply.error(STATUS_FAULTS.get(fault) or HubError(fault, HTTPStatus(fault).phrase)))
        elif len(body) == size and fault != "refuse":
            self.send(self.reply(body), cut=fault == "cut_reply")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = respond

    def reset(self) -> None:
        """Close the connection by a reset, where closing alone would let the client read to an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it keeps the socket open
        self.connection.close()

    def reply(self, body: bytes) -> Reply:
        address, hub = urlsplit(self.path), self.server.hub
        try:
            with hub.lock:
                data = self.answer(Api(hub, parse_qs(address.query), self.headers, body), address.path)
            return data if isinstance(data, Reply) else Reply.json(data)
        except HubError as error:
            return Reply.error(error)
        except (KeyError, TypeError, ValueError) as error:
            return Reply.error(HubError(400, f"Malformed request: {error!r}"))

    def answer(self, api: Api, path: str) -> Any:
        for methods, pattern, access, method in ROUTES:
            found = re.fullmatch(pattern, path) if self.command in methods.split() else None
            if found:
                names: dict[str, Any] = {key: unquote(value) for key, value in found.groupdict().items() if value}
                if access:
                    names["repo"] = api.repository(names["repo"], access)
                return method(api, **names)
        raise HubError(404, f"This hub has no {self.command} {path}")

    def send(self, reply: Reply, cut: bool = False) -> None:
        """Send a reply in one piece, or only up to the middle of its body (of its head, if it has no body)."""
        body = b"" if self.command == "HEAD" else reply.body
        lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in {**reply.headers, "Content-Length": len(reply.body)}.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        if cut:
            head, body = (head, body[: len(body) // 2]) if body else (head[: len(head) // 2], b"")
        self.wfile.write(head + body)

    def log_message(self, *args: Any) -> None:
        """Nothing: the log is `LoopbackHub.requests`."""


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self, hub: "LoopbackHub"):
        self.hub = hub
        super().__init__(("127.0.0.1", 0), Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would ask a resolver for the name of this machine


class LoopbackHub:
    """A hub that serves within a `with` block.

    Args:
        tokens: each token's user, who owns the namespace of that name.
        part_size: in bytes; a larger LFS object is uploaded in parts of this size.
    """

    def __init__(self, tokens: dict[str, str], part_size: int = 2**20):
        self.tokens, self.part_size = tokens, part_size
        self.repos: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.connections: set[socket.socket] = set()
        self.lock = threading.RLock()
        self.fault = None

    def __enter__(self) -> "LoopbackHub":
        self.server = Server(self)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Stop, and end the threads that wait for a client."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        deadline = time.monotonic() + PATIENCE
        while self.connections and time.monotonic() < deadline:
            for connection in list(self.connections):
                with contextlib.suppress(OSError):  # closed already
                    connection.shutdown(socket.SHUT_RDWR)
            time.sleep(0.01)

    def environment(self, token: str | None = None) -> dict[str, str]:
        """Variables by which a process takes this hub for the Hub, with the first token if none is named."""
        token = next(iter(self.tokens), "") if token is None else token
        address = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": token, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        off = ["HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION"]
        return address | {"HF_HUB_OFFLINE": "0"} | dict.fromkeys(off, "1")

    @property
    def fault(self) -> FaultFunction | None:
        """Asked how each request is to break, if it is: of its number since this was set, its method and its path."""
        return self._fault

    @fault.setter
    def fault(self, fault: FaultFunction | None) -> None:
        self._fault = fault
        self.reset_faults()

    def reset_faults(self) -> None:
        """Count the requests from 0 again."""
        self._asked = 0

    def note(self, method: str, path: str) -> Fault | None:
        """Log a request; how it is to break."""
        with self.lock:
            self.requests.append((method, path))
            index, self._asked = self._asked, self._asked + 1
            return self.fault(index, method, path) if self.fault else None
