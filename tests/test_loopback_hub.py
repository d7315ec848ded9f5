"""To the client the tests' hub is the Hub: what is pushed comes back, and what breaks leaves no half of a push."""

import importlib
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, file_download
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http, get_session
from loopback_hub import PATIENCE, LoopbackHub

# What the client speaks HTTP by: httpx, or httpx2 since huggingface_hub 2.
httpx = importlib.import_module(type(get_session()).__module__.partition(".")[0])

TOKENS = {"hf_writer": "someone", "hf_reader": "other"}
REPO = "someone/model"
PART = 4096
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# A model\n",
    "config.json": b'{"a": 1}\n',
    "model.safetensors": bytes(range(256)),
    "nested/folder/large.bin": random.Random(0).randbytes(2 * PART + 100),  # in three parts
    "nested/without_a_suffix": b"a\0b",
    "a name, with %20 & ä.txt": b"odd",
}
MODEL_INDEX = """---
model-index:
- name: a model
  results:
  - task:
      type: text-classification
    dataset:
      type: glue
      name: GLUE
      config: {config}
    metrics:
    - type: accuracy
      {value}: 0.9
---
"""
# What a push asks before it commits, by method and path; the fourth is a part of a large file, the fifth completes it.
BEFORE_THE_COMMIT = [
    ("POST", "/preupload/"),
    ("POST", "/objects/batch"),
    ("PUT", "/lfs/someone/"),
    ("PUT", "/2"),
    ("POST", "/lfs/someone/"),
    ("POST", "/objects/verify"),
]


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with LoopbackHub(TOKENS, part_size=PART) as hub:
        yield hub


@pytest.fixture
def api(hub):
    api = HfApi(endpoint=hub.endpoint, token="hf_writer")
    api.create_repo(REPO)
    return api


@pytest.fixture
def waits(monkeypatch):
    """How long the client would have waited before each retry; it does not."""
    waits = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=waits.append))
    return waits


def anonymous(hub):
    return HfApi(endpoint=hub.endpoint, token=False)


def push(api, files=FILES, **options):
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(REPO, operations, **{"commit_message": "push", **options})


def state(hub):
    repo = hub.repos[REPO]
    return dict(repo.refs), repo.files()


def once(method, part, kind):
    """Break the first request of a method that has `part` in its path."""
    broken = []

    def fault(index, each, path):
        if each == method and part in path and not broken:
            broken.append(path)
            return kind
        return None

    return fault


def asked(hub, method, part):
    return [path for each, path in hub.requests if each == method and part in path]


def download(api, cache, **options):
    """What a snapshot has, without the file the Hub itself adds."""
    folder = Path(api.snapshot_download(REPO, cache_dir=cache, **options))
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".gitattributes"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_what_is_uploaded_comes_back(hub, api, tmp_path):
    for path, content in FILES.items():
        (tmp_path / "up" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / path).write_bytes(content)
    made = api.upload_folder(repo_id=REPO, folder_path=tmp_path / "up", commit_message="one", commit_description="two")
    repo = hub.repos[REPO]
    assert {path: content for path, content in repo.files().items() if path != ".gitattributes"} == FILES
    assert [(each.title, each.description) for each in repo.commits()] == [("one", "two"), ("initial commit", "")]
    assert repo.commits()[0].id == made.oid == api.model_info(REPO).sha
    files = {file.rfilename: file for file in api.model_info(REPO, files_metadata=True).siblings}
    lfs = {"model.safetensors", "nested/folder/large.bin", "nested/without_a_suffix"}
    assert {path for path, file in files.items() if file.lfs} == lfs
    assert {path: file.size for path, file in files.items()} == {path: len(c) for path, c in repo.files().items()}
    parts = [path.rsplit("/", 1)[1] for path in asked(hub, "PUT", files["nested/folder/large.bin"].lfs.sha256)]
    assert sorted(parts) == ["1", "2", "3"]
    assert download(api, tmp_path / "cache") == FILES


def test_every_revision_stays_readable(hub, api, tmp_path):
    old = push(api, {"a.txt": b"old", "model.bin": b"old"}).oid
    api.create_tag(REPO, tag="v1")
    new = push(api, {"a.txt": b"new", "model.bin": b"new"}, revision="main").oid
    for revision, content in [(old, b"old"), ("v1", b"old"), (new, b"new"), (None, b"new")]:
        assert download(api, tmp_path, revision=revision) == {"a.txt": content, "model.bin": content}
    assert [each.commit_id for each in api.list_repo_commits(REPO)][:2] == [new, old]
    assert hub.repos[REPO].files(old)["a.txt"] == hub.repos[REPO].files("v1")["a.txt"] == b"old"


def test_commit_ids_depend_on_nothing_but_what_was_committed(hub, api):
    with LoopbackHub(TOKENS) as second:
        other = HfApi(endpoint=second.endpoint, token="hf_writer")
        other.create_repo(REPO)
        assert push(api).oid == push(other).oid
        assert push(api, {"a.txt": b"a"}).oid != push(other, {"a.txt": b"b"}).oid


def test_a_cut_download_goes_on_where_it_was_cut(hub, api, waits, monkeypatch, tmp_path):
    push(api)
    path, starts, http_get = "nested/folder/large.bin", [], file_download.http_get

    def record(*args, resume_size=0, **options):
        starts.append(resume_size)
        return http_get(*args, resume_size=resume_size, **options)

    monkeypatch.setattr(file_download, "http_get", record)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)  # what is within a chunk is lost
    hub.fault = lambda index, method, path: "cut_reply" if method == "GET" and not starts[1:] else None
    with open(api.hf_hub_download(REPO, path, cache_dir=tmp_path), "rb") as file:
        assert file.read() == FILES[path]
    assert starts == [0, len(FILES[path]) // 200 * 100]


@pytest.mark.parametrize(("asked", "start", "end"), [("5-9", 5, 10), ("250-999", 250, 256), ("250-", 250, 256)])
def test_a_range_is_answered(hub, api, asked, start, end):
    push(api)
    url = f"{hub.endpoint}/{REPO}/resolve/main/model.safetensors"
    answer = get_session().get(url, headers={"Range": f"bytes={asked}"})
    assert (answer.status_code, answer.content) == (206, FILES["model.safetensors"][start:end])
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/256"
    assert get_session().get(url, headers={"Range": "bytes=256-"}).status_code == 416


def test_lists_files_and_folders(hub, api):
    push(api)
    top = {entry.path: type(entry).__name__ for entry in api.list_repo_tree(REPO)}
    assert top["nested"] == "RepoFolder" and top["config.json"] == "RepoFile" and "nested/folder" not in top
    assert [entry.path for entry in api.list_repo_tree(REPO, "nested/folder")] == ["nested/folder/large.bin"]
    assert set(api.list_repo_files(REPO)) == {*FILES, ".gitattributes"}
    entries = api.get_paths_info(REPO, ["nested", "config.json", "missing"])
    assert [entry.path for entry in entries] == ["config.json", "nested"]
    with pytest.raises(EntryNotFoundError):  # as transformers asks for chat templates
        list(api.list_repo_tree(REPO, "additional_chat_templates"))
    assert api.file_exists(REPO, "config.json") and not api.file_exists(REPO, "missing")


def test_unchanged_files_are_left_out(hub, api):
    first = push(api).oid
    hub.requests.clear()
    assert push(api).oid == first
    assert not asked(hub, "POST", "/commit/") and not asked(hub, "PUT", "")
    push(api, {**FILES, "config.json": b"{}"})
    assert hub.repos[REPO].files()["config.json"] == b"{}" and not asked(hub, "PUT", "")


def test_files_and_folders_are_deleted(hub, api):
    push(api)
    paths = ["config.json", "nested/"]
    api.create_commit(REPO, [CommitOperationDelete(path) for path in paths], commit_message="delete")
    left = {path for path in FILES if path != "config.json" and not path.startswith("nested/")}
    assert set(hub.repos[REPO].files()) == {*left, ".gitattributes"}
    api.delete_repo(REPO)
    assert not hub.repos and not api.repo_exists(REPO)


@pytest.mark.parametrize("path", ["missing.txt", "missing/"])
def test_a_commit_is_applied_in_whole_or_not_at_all(hub, api, path):
    push(api)
    before = state(hub)
    operations = [CommitOperationAdd("new.txt", b"new"), CommitOperationDelete(path)]
    with pytest.raises(EntryNotFoundError, match="with this name doesn't exist"):
        api.create_commit(REPO, operations, commit_message="both")
    assert state(hub) == before


def test_an_lfs_file_must_have_been_uploaded(hub, api):
    before, addition = state(hub), CommitOperationAdd("model.safetensors", b"weights")
    addition._upload_mode, addition._is_uploaded = "lfs", True  # so the client believes
    with pytest.raises(BadRequestError, match="LFS pointer pointed to a file that does not exist"):
        api.create_commit(REPO, [CommitOperationAdd("a.txt", b"a"), addition], commit_message="dangling")
    assert state(hub) == before
    assert get_session().put(f"{hub.endpoint}/lfs/{REPO}/{'0' * 64}", content=b"other").status_code == 400
    verify, asked_for = f"{hub.endpoint}/{REPO}.git/info/lfs/objects/verify", {"oid": "0" * 64, "size": 5}
    assert get_session().post(verify, json=asked_for, headers={"Authorization": "Bearer hf_writer"}).status_code == 404


def test_a_stale_parent_is_refused(hub, api):
    first = push(api).oid
    second = push(api, {"a.txt": b"a"}, parent_commit=first).oid
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        push(api, {"a.txt": b"b"}, parent_commit=first)
    assert error.value.response.status_code == 412
    assert hub.repos[REPO].commits()[0].id == second
    push(api, {"a.txt": b"b"}, parent_commit=second[:7])
    assert hub.repos[REPO].files()["a.txt"] == b"b"


def test_branches_and_tags(hub, api):
    first = push(api).oid
    api.create_branch(REPO, branch="side/way")
    push(api, {"a.txt": b"side"}, revision="side/way")
    api.create_branch(REPO, branch="old", revision=first)
    api.create_tag(REPO, tag="v1", revision="side/way")
    refs = api.list_repo_refs(REPO)
    assert {ref.name for ref in refs.branches} == {"main", "side/way", "old"}
    assert [(ref.name, ref.ref) for ref in refs.tags] == [("v1", "refs/tags/v1")]
    assert "a.txt" not in hub.repos[REPO].files("main") and hub.repos[REPO].files("v1")["a.txt"] == b"side"
    with pytest.raises(HfHubHTTPError, match="Reference already exists"):
        api.create_branch(REPO, branch="old")
    api.create_branch(REPO, branch="old", exist_ok=True)
    api.delete_branch(REPO, branch="old")
    for revision in ("old", "v1", "refs/tags/v1", first):  # neither what is gone nor what cannot move
        with pytest.raises(RevisionNotFoundError):
            push(api, {"b.txt": b"b"}, revision=revision)


def test_a_pull_request_leaves_its_branch_alone(hub, api):
    first = push(api).oid
    made = push(api, {"a.txt": b"a", "new.bin": b"b"}, create_pr=True)
    assert (made.pr_num, made.pr_revision) == (1, "refs/pr/1")
    push(api, {"a.txt": b"again"}, revision="refs/pr/1")
    repo = hub.repos[REPO]
    assert repo.commits("main")[0].id == first and repo.files("refs/pr/1")["a.txt"] == b"again"
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert [ref.target_commit for ref in refs.pull_requests] == [repo.commits("refs/pr/1")[0].id]
    assert push(api, {"a.txt": b"a"}, create_pr=True, parent_commit=first).pr_num == 2


def test_each_error_is_of_the_class_the_client_has_for_it(hub, api, tmp_path):
    push(api)
    for call in (api.model_info, api.list_repo_refs):
        with pytest.raises(RepositoryNotFoundError):
            call("someone/missing")
    for call in (api.model_info, api.list_repo_commits):
        with pytest.raises(RevisionNotFoundError):
            call(REPO, revision="missing")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, "config.json", revision="missing", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(REPO, "missing", cache_dir=tmp_path)
    assert list(tmp_path.glob("*/.no_exist/*/missing"))  # the client knows at which commit
    with pytest.raises(HfHubHTTPError, match="This hub has no GET /api/datasets/someone/data"):
        api.dataset_info("someone/data")
    with pytest.raises(HfHubHTTPError, match="There is no dataset on this hub"):
        api.create_repo("someone/data", repo_type="dataset")


def test_only_its_owner_writes_to_a_repository(hub, api):
    push(api)
    before = state(hub)
    other = HfApi(endpoint=hub.endpoint, token="hf_reader")
    with pytest.raises(HfHubHTTPError, match="403 Forbidden: other may not write to someone/model"):
        push(other, {"a.txt": b"a"})
    with pytest.raises(RepositoryNotFoundError, match="401 Client Error"):
        push(anonymous(hub), {"a.txt": b"a"})
    with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
        other.create_repo("someone/second")
    with pytest.raises(HfHubHTTPError, match="401"):
        anonymous(hub).create_repo("someone/second")
    assert state(hub) == before and list(hub.repos) == [REPO]


def test_only_its_owner_sees_a_private_repository(hub, api, tmp_path):
    api.create_repo("private", private=True)
    assert api.model_info("someone/private").private and not api.model_info(REPO).private
    for token, status in (("hf_reader", 404), (False, 401)):
        with pytest.raises(RepositoryNotFoundError) as error:
            HfApi(endpoint=hub.endpoint, token=token).model_info("someone/private")
        assert error.value.response.status_code == status
    with pytest.raises(RepositoryNotFoundError):
        anonymous(hub).hf_hub_download("someone/private", ".gitattributes", cache_dir=tmp_path)
    api.hf_hub_download("someone/private", ".gitattributes", cache_dir=tmp_path)


def test_tokens_and_repositories_that_exist(hub, api):
    assert api.whoami()["name"] == "someone"
    for call in (HfApi(endpoint=hub.endpoint, token="hf_wrong").whoami, lambda: push(api, token="hf_wrong")):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert error.value.response.status_code == 401 and type(error.value) is HfHubHTTPError
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\na: [1\n---\n", "Invalid YAML"),
        ("---\nmodel-index: 1\n---\n", '"model-index" must be an array'),
        ("---\nmodel-index:\n- name: a\n---\n", r'"model-index\[0\].results" is required'),
        (
            MODEL_INDEX.format(config="c", value="number"),
            r'"model-index\[0\].results\[0\].metrics\[0\].value" is required',
        ),
        (MODEL_INDEX.format(config=2024, value="value"), r'dataset.config" must be a string'),
    ],
)
def test_a_wrong_card_is_refused(hub, api, card, message):
    before = state(hub)
    with pytest.raises(ValueError, match=message):
        push(api, {"README.md": card.encode()})
    assert not asked(hub, "POST", "/commit/")
    hub.fault, api._validate_yaml = None, lambda *args, **options: None  # nor does a commit let it in
    with pytest.raises(BadRequestError, match=message):
        push(api, {"README.md": card.encode()})
    assert state(hub) == before
    push(api, {"README.md": MODEL_INDEX.format(config="c", value="value").encode()})


@pytest.mark.parametrize("kind", [401, 403, 404, 409, 413, 429, 500, "refuse", "cut_request", "cut_reply"])
def test_a_broken_commit_is_made_or_not_and_the_next_push_goes_through(hub, api, kind):
    before = state(hub)
    hub.fault = once("POST", "/commit/", kind)
    with pytest.raises((HfHubHTTPError, httpx.TransportError)) as error:
        push(api)
    if isinstance(kind, int):
        answer = error.value.response
        assert answer.status_code == kind and answer.json()["error"] == answer.headers["X-Error-Message"]
        assert isinstance(error.value, RepositoryNotFoundError) == (kind == 404)
    else:  # to the client a reset is another error than an end
        assert isinstance(error.value, httpx.NetworkError if kind == "cut_request" else httpx.RemoteProtocolError)
    assert (state(hub) == before) == (kind != "cut_reply")
    assert push(api).oid == hub.repos[REPO].commits()[0].id
    assert len(hub.repos[REPO].commits()) == 2 and FILES.items() <= hub.repos[REPO].files().items()


@pytest.mark.parametrize("kind", [429, 500, "refuse", "cut_request", "cut_reply"])
@pytest.mark.parametrize("step", BEFORE_THE_COMMIT, ids=" ".join)
def test_before_the_commit_the_client_itself_tries_again(hub, api, waits, step, kind):
    hub.fault = once(*step, kind)
    push(api)
    assert waits == [1]
    assert len(hub.repos[REPO].commits()) == 2 and FILES.items() <= hub.repos[REPO].files().items()


@pytest.mark.parametrize("kind", [500, "refuse", "cut_request"])
def test_what_stays_broken_ends_the_push(hub, api, waits, kind):
    before = state(hub)
    hub.fault = lambda index, method, path: kind if method == "PUT" else None
    with pytest.raises(RuntimeError, match=r"Error while uploading 'model.safetensors'"):
        push(api, {"a.txt": b"a", "model.safetensors": b"weights"})
    assert waits == [1, 2, 4, 8, 8] and len(asked(hub, "PUT", "")) == 6
    assert state(hub) == before


def test_the_n_th_request_is_broken_counted_from_the_start_or_the_reset(hub, api):
    def info_works():
        try:
            return bool(api.model_info(REPO))
        except HfHubHTTPError:
            return False

    hub.fault = lambda index, method, path: 403 if index == 1 else None
    assert [info_works() for _ in range(3)] == [True, False, True]
    hub.reset_faults()
    assert [info_works() for _ in range(3)] == [True, False, True]
    hub.fault = None
    assert hub.requests[-6:] == [("GET", f"/api/models/{REPO}")] * 6


def test_a_large_request_is_cut_before_its_end(hub, api, waits):
    hub.fault = once("POST", "/commit/", "cut_request")
    before, files = state(hub), {"large.txt": b"a" * 8_000_000}  # more than the sockets between hold
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):  # as the client may be writing or reading
        push(api, files)
    assert state(hub) == before
    push(api, files)
    assert hub.repos[REPO].files()["large.txt"] == files["large.txt"]


def test_a_hanging_request_ends_by_the_clients_timeout(hub, api):
    hub.fault = once("GET", "/api/models/", "hang")
    with pytest.raises(httpx.ReadTimeout):
        api.model_info(REPO, timeout=0.1)
    assert api.model_info(REPO, timeout=PATIENCE).id == REPO


def test_closing_ends_what_hangs_and_leaves_no_thread(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    before, errors = set(threading.enumerate()), []
    with LoopbackHub(TOKENS) as hub:
        api = HfApi(endpoint=hub.endpoint, token="hf_writer")
        api.create_repo(REPO)
        start = state(hub)
        hub.fault = once("POST", "/commit/", "hang")

        def hang():
            try:
                push(api, {"a.txt": b"a"})  # which has no timeout
            except httpx.TransportError as error:
                errors.append(error)

        client = threading.Thread(target=hang, daemon=True)
        client.start()
        wait_for(lambda: asked(hub, "POST", "/commit/"))
        assert client.is_alive() and state(hub) == start
    client.join(PATIENCE)
    assert errors and not hub.connections and state(hub) == start
    wait_for(lambda: set(threading.enumerate()) <= before)


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


PROCESS = """
from huggingface_hub import HfApi, hf_hub_download, upload_file
HfApi().create_repo("model")
made = upload_file(path_or_fileobj=b"weights", path_in_repo="model.safetensors", repo_id="someone/model")
print(made.oid, open(hf_hub_download("someone/model", "model.safetensors")).read())
"""


def test_a_process_takes_it_for_the_hub_by_its_environment(hub, tmp_path):
    def run(script, **options):
        environment = {**os.environ, **hub.environment(**options), "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = run(PROCESS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [hub.repos[REPO].commits()[0].id, "weights"]
    assert "LocalTokenNotFoundError" in run("import huggingface_hub as hub; hub.whoami()", token="").stderr
