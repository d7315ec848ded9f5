"""Pushes to a Hub on loopback: what is pushed opens everywhere, and nothing private leaves."""

import getpass
import hashlib
import json
import time
from functools import wraps
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from conftest import CONFIGS, LABELS, READER, VOCAB, WRITER, named, run_without_package, tiny_config, tiny_model
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants
from transformers import Seq2SeqTrainingArguments

import seqblend
from seqblend import (
    FAMILIES,
    BlendDecoderForCausalLM,
    BlendDecoderModel,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderModel,
)
from seqblend.hub_card import publish as publishing
from seqblend.hub_card.card import CardData, write_card
from seqblend.hub_card.contents import PublishError, check_no_secrets, repository_files
from seqblend.hub_card.publish import Destination, check_access, main, publish
from seqblend.hub_card.verify import (
    REFERENCE,
    check_generation,
    compare_outputs,
    compute_outputs,
    load_saved,
    reference_inputs,
    verify_isolated,
    write_reference,
)
from seqblend.tokenization.training import train_tokenizer
from seqblend.train import main as train
from seqblend.training.trainer import BlendTrainer

FAMILY = pytest.mark.parametrize("config_class", CONFIGS.values(), ids=CONFIGS.keys())


@pytest.fixture
def opened(monkeypatch):
    """The directories that would have been opened in a fresh process before they were sent; they are not."""
    opened = []
    monkeypatch.setattr(publishing, "verify_isolated", opened.append)
    monkeypatch.setattr("seqblend.hub_card.card.run_usage", lambda *args: "printed")
    monkeypatch.setattr("seqblend.hub_card.card.draw_pictures", lambda *args: [])
    return opened


class Rows(torch.utils.data.Dataset):
    """Rows that any head can learn from."""

    def __init__(self, model_class):
        of_tokens = "Sequence" not in model_class.__name__
        self.labels = torch.tensor([1, 0, 2]) if of_tokens else torch.tensor(1)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"input_ids": torch.tensor([3, 4, 5]), "labels": self.labels}


def saved(model_class, directory):
    """A saved model with all that a repository has."""
    model = tiny_model(model_class).float()
    model.save_pretrained(directory)
    train_tokenizer(["abc"], "char", VOCAB).save_pretrained(directory)
    write_reference(model, directory)
    write_card(directory, complete=False)
    return model


def contents(directory):
    """The files of a directory, with their bytes."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def trainer_of(model_class, directory, given=None, model_options=None, **options):
    """Our Trainer, about to push after each of two steps and at the end."""
    arguments = {
        "max_steps": 2,
        "save_steps": 1,
        "push_to_hub": True,
        "hub_model_id": f"someone/trained-{model_class.__name__}",
        "hub_always_push": True,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    return BlendTrainer(
        scorers={},
        model=tiny_model(model_class, **(model_options or {})).float(),
        given=given,
        args=Seq2SeqTrainingArguments(directory, **arguments),
        train_dataset=Rows(model_class),
        processing_class=train_tokenizer(["abc"], "char", VOCAB),
    )


# --- Round trips ---


OPEN = """
import json
import safetensors.torch, torch, transformers
from huggingface_hub import hf_hub_download

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
for repo, revision, reference, names in json.load(sys.stdin):
    where = {"revision": revision, "trust_remote_code": True}
    config = transformers.AutoConfig.from_pretrained(repo, **where)
    if reference is None:
        reference = hf_hub_download(repo, "reference.safetensors", revision=revision)
    expected = safetensors.torch.load_file(reference)
    inputs = {name: expected[name] for name in expected if name not in ("logits", "last_hidden_state")}
    for name in names or sorted(set(config.auto_map) - {"AutoConfig"}):
        model = getattr(transformers, name).from_pretrained(repo, **where).eval()
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        with torch.no_grad():
            states = model.base_model(**inputs).last_hidden_state
            assert torch.equal(states, expected["last_hidden_state"]), (repo, name)
            if type(model).__name__ == config.architectures[0] and "logits" in expected:
                assert torch.equal(model(**inputs).logits, expected["logits"]), (repo, name)
        print("opened", repo, revision[:8], name)
"""


def open_over_http(hub, tmp_path, places):
    """Open repositories in a process without seqblend; the lines it prints, one for each repository and Auto class."""
    done = run_without_package(OPEN, places, tmp_path, **hub.environment(READER))
    return [line for line in done.stdout.splitlines() if line.startswith("opened")]


# The head of each family whose repositories of the Trainer are opened over HTTP: of each kind one.
TRAINED = dict(
    zip(CONFIGS.values(), ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"), strict=True)
)


def decides(files):
    """What decides in which classes a repository opens: its code, and what its config says of it."""
    config = json.loads(files["config.json"])
    code = {name: content for name, content in files.items() if name.endswith(".py")}
    return code, config["auto_map"], config["architectures"], config["model_type"]


def assert_says_its_reference(model_class, files):
    """The weights of a repository say in their class what its reference says."""
    written = safetensors.torch.load(files[REFERENCE])
    model = model_class(model_class.config_class(**json.loads(files["config.json"]))).eval()
    model.load_state_dict(safetensors.torch.load(files["model.safetensors"]), strict=False)
    said = compute_outputs(model, {name: written[name] for name in reference_inputs(model)})
    assert all(torch.equal(written[name], value) for name, value in said.items())


@FAMILY
def test_what_anyone_pushes_opens_in_every_head_bit_for_bit(config_class, hub, opened, tmp_path):
    """By our Trainer, by model.push_to_hub and by the command; and every commit in mid-training.

    Repositories with the same code and config open in the same classes: one of them is opened for all.
    """
    places, models = [], FAMILIES[config_class]
    for auto_class, model_class in models.items():
        name, of_base = model_class.__name__, auto_class is transformers.AutoModel
        model = saved(model_class, tmp_path / name)
        model.push_to_hub(f"someone/plain-{name}")
        assert main([str(tmp_path / name), "--repo_id", f"someone/command-{name}"]) == 0
        plain, command = (hub.repos[f"someone/{way}-{name}"].files("main") for way in ("plain", "command"))
        assert decides(plain) == decides(command) == decides(contents(tmp_path / name))
        assert all(plain[each] == command[each] for each in ("config.json", "model.safetensors"))
        # From the base model's repository every head; from a head's, itself and the base model.
        names = None if of_base else ["AutoModel", auto_class.__name__]
        places.append((f"someone/command-{name}", "main", None, names))
        if of_base:
            places.append((f"someone/plain-{name}", "main", str(tmp_path / name / REFERENCE), names))
            continue
        trainer = trainer_of(model_class, tmp_path / f"trained-{name}")
        trainer.train()
        trainer.push_to_hub()
        repo = hub.repos[trainer.hub_model_id]
        half_way = [commit.id for commit in repo.commits("main") if commit.title.startswith("Training in progress")]
        assert len(half_way) == 2
        for commit in ("main", *half_way):
            assert decides(repo.files(commit)) == decides(plain)
            assert_says_its_reference(model_class, repo.files(commit))
            if auto_class.__name__ == TRAINED[config_class]:
                places.append((trainer.hub_model_id, commit, None, names))
        inputs = reference_inputs(trainer.model)
        written = safetensors.torch.load(repo.files("main")[REFERENCE])
        assert all(torch.equal(written[key], value) for key, value in compute_outputs(trainer.model, inputs).items())
    lines = open_over_http(hub, tmp_path, places)
    heads = len(models) - 1
    assert len(lines) == 2 * len(models) + heads * 2 + 3 * 2
    # The command and each push of the Trainer opened the folder first.
    assert len(opened) == len(models) + heads * 3


PLAIN = """
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"input_ids": torch.tensor([3, 4, 5]), "labels": torch.tensor(1)}

model = AutoModelForSequenceClassification.from_pretrained("someone/first", trust_remote_code=True)
arguments = TrainingArguments(
    "again", max_steps=1, report_to="none", use_cpu=True, push_to_hub=True, hub_model_id="someone/again",
    hub_strategy="end", disable_tqdm=True,
)
trainer = Trainer(model, arguments, train_dataset=Rows())
trainer.train()
trainer.push_to_hub()
"""


def test_a_plain_trainer_without_the_package_pushes_a_repository_that_opens(hub, opened, tmp_path):
    saved(BlendEncoderForSequenceClassification, tmp_path / "first")
    publish(tmp_path / "first", Destination("someone/first"))
    run_without_package(PLAIN, None, tmp_path, **hub.environment(WRITER))
    files = hub.repos["someone/again"].files("main")
    weights = safetensors.torch.load(files["model.safetensors"])
    old = safetensors.torch.load((tmp_path / "first" / "model.safetensors").read_bytes())
    assert not torch.equal(weights["score.weight"], old["score.weight"])
    reference = tmp_path / "again.safetensors"
    model = BlendEncoderForSequenceClassification(tiny_config(BlendEncoderModel.config_class)).float()
    model.load_state_dict(weights)
    inputs = reference_inputs(model)
    safetensors.torch.save_file({**inputs, **compute_outputs(model, inputs)}, reference)
    assert len(open_over_http(hub, tmp_path, [("someone/again", "main", str(reference), None)])) == 4


# --- What is sent ---


@pytest.fixture
def model_dir(tmp_path):
    saved(BlendEncoderForSequenceClassification, tmp_path / "model")
    return tmp_path / "model"


def test_what_belongs_into_the_repository_is_sent_and_nothing_else(hub, opened, model_dir):
    for name in (
        "training_args.bin",
        "predictions.jsonl",
        "trainer_state.json",
        "all_results.json",
        "mine.py",
        ".env",
    ):
        (model_dir / name).write_text("private")
    (model_dir / "checkpoint-1").mkdir()
    (model_dir / "checkpoint-1" / "optimizer.pt").write_text("private")
    (model_dir / "pictures").mkdir()
    (model_dir / "pictures" / "tags.png").write_bytes(b"\x89PNG")
    publish(model_dir, Destination("someone/model"))
    files = hub.repos["someone/model"].files("main")
    code = {path.name for path in model_dir.glob("*.py")} - {"mine.py"}
    assert set(files) - {".gitattributes"} == code | {
        *("README.md", "config.json", "model.safetensors", REFERENCE, "pictures/tags.png"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert all((model_dir / name).read_bytes() == files[name] for name in files if name != ".gitattributes")


def test_shards_replace_whole_weights_and_whole_weights_shards(hub, opened, tmp_path):
    """Whole weights left beside shards would be read in their place."""
    model = saved(BlendEncoderForSequenceClassification, tmp_path / "whole")
    saved(BlendEncoderForSequenceClassification, tmp_path / "shards")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    for name in ("whole", "shards", "whole"):
        publish(tmp_path / name, Destination("someone/model"))
        weights = {file for file in hub.repos["someone/model"].files("main") if "safetensors" in file} - {REFERENCE}
        assert weights == {path.name for path in (tmp_path / name).glob("model*safetensors*")}
        assert (len(weights) > 2) == (name == "shards")


def test_other_files_of_the_repository_stay(hub, opened, model_dir):
    publish(model_dir, Destination("someone/model"))
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.md", repo_id="someone/model")
    (model_dir / "README.md").write_text("---\nlicense: mit\n---\nnew\n")
    publish(model_dir, Destination("someone/model"))
    assert hub.repos["someone/model"].files("main")["notes.md"] == b"mine"


def test_files_of_another_tokenizer_do_not_stay(hub, opened, model_dir):
    """transformers would read them beside the new tokenizer.json."""
    publish(model_dir, Destination("someone/model"))
    for name in ("special_tokens_map.json", "added_tokens.json", "vocab.txt", "chat_template.jinja"):
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id="someone/model")
    (model_dir / "README.md").write_text("---\nlicense: mit\n---\nnew\n")
    publish(model_dir, Destination("someone/model"))
    names = set(hub.repos["someone/model"].files("main"))
    assert "tokenizer.json" in names and not {"special_tokens_map.json", "vocab.txt", "chat_template.jinja"} & names


def test_a_card_of_the_repository_stays_where_the_folder_has_none(hub, opened, model_dir):
    publish(model_dir, Destination("someone/model"))
    card = hub.repos["someone/model"].files("main")["README.md"]
    (model_dir / "README.md").unlink()
    weights = safetensors.torch.load_file(model_dir / "model.safetensors")
    safetensors.torch.save_file({**weights, "more": torch.ones(1)}, model_dir / "model.safetensors", {"format": "pt"})
    publish(model_dir, Destination("someone/model"))
    assert hub.repos["someone/model"].files("main")["README.md"] == card


def test_the_card_is_of_the_repository_that_it_goes_to(hub, opened, model_dir):
    """The run wrote it before anybody knew the repository; a card that somebody wrote is left alone."""
    assert "you/model" in (model_dir / "README.md").read_text()
    assert main([str(model_dir), "--repo_id", "other-name", "--revision", "trial"]) == 0
    card = hub.repos["someone/other-name"].files("trial")["README.md"].decode()
    assert 'repository = "someone/other-name"' in card and '"revision": "trial"' in card and "you/" not in card
    (model_dir / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    assert main([str(model_dir), "--repo_id", "someone/mine"]) == 0
    assert hub.repos["someone/mine"].files("main")["README.md"].endswith(b"# Mine\n")


def test_private_does_not_publish_into_a_public_repository(hub, opened, model_dir, capsys):
    HfApi().create_repo("someone/model")
    assert main([str(model_dir), "--repo_id", "someone/model", "--private"]) == 2
    assert "someone/model already exists and is public" in capsys.readouterr().err
    assert "config.json" not in hub.repos["someone/model"].files("main")


def test_a_gitignore_does_not_make_half_a_repository(hub, opened, model_dir, monkeypatch):
    """The client leaves out what the Hub says is ignored, without a word."""
    upload = HfApi.preupload_lfs_files

    def ignoring(self, repo_id, additions, **kwargs):
        upload(self, repo_id, additions, **kwargs)
        next(each for each in additions if each.path_in_repo == "model.safetensors")._should_ignore = True

    monkeypatch.setattr(HfApi, "preupload_lfs_files", ignoring)
    with pytest.raises(PublishError, match=r"\.gitignore of the repository excludes model\.safetensors"):
        publish(model_dir, Destination("someone/model"))


def test_a_commit_of_somebody_else_is_not_taken_for_ours(hub, opened, model_dir, monkeypatch):
    """Of the same title, on the same parent; and our own answer is lost."""
    commit = HfApi.create_commit

    def beaten(self, repo_id, operations, **kwargs):
        commit(self, repo_id, [CommitOperationAdd("theirs", b"theirs")], commit_message=kwargs["commit_message"])
        raise ConnectionError("lost")

    monkeypatch.setattr(HfApi, "create_commit", beaten)
    with pytest.raises(PublishError, match="ConnectionError: lost"):
        publish(model_dir, Destination("someone/model"))


def test_nothing_new_is_no_commit(hub, opened, model_dir):
    first = publish(model_dir, Destination("someone/model"))
    before = hub.repos["someone/model"].commits("main")
    assert publish(model_dir, Destination("someone/model")).oid == first.oid
    assert hub.repos["someone/model"].commits("main") == before


def test_branches_pull_requests_and_private_repositories(hub, opened, model_dir, capsys):
    command = [str(model_dir), "--repo_id", "someone/model", "--private"]
    assert main([*command, "--revision", "trial"]) == 0
    repo = hub.repos["someone/model"]
    assert "config.json" in repo.files("trial") and "config.json" not in repo.files("main")
    assert main([*command, "--create_pr"]) == 0
    assert "config.json" in repo.files("refs/pr/1") and "config.json" not in repo.files("main")
    assert "discussions/1" in capsys.readouterr().out
    assert HfApi().model_info("someone/model").private


def test_a_dry_run_checks_all_and_sends_nothing(hub, opened, model_dir, capsys):
    before = list(hub.requests)
    # Else it would be made again for this repository.
    (model_dir / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    assert main([str(model_dir), "--repo_id", "someone/model", "--dry_run"]) == 0
    *lines, total, last = capsys.readouterr().out.splitlines()
    files = {name: path.read_bytes() for name, path in repository_files(model_dir).items()}
    assert [line.split() for line in lines] == [
        [f"{len(content):,}", hashlib.sha256(content).hexdigest()[:12], name] for name, content in files.items()
    ]
    assert total.split() == [f"{sum(map(len, files.values())):,}", "bytes", "in", str(len(files)), "files"]
    assert last == "All checks passed. Nothing was sent."
    assert max(map(len, lines)) < 80
    assert hub.requests == before and len(opened) == 1


def test_what_a_run_has_not_written_is_made_up_for(hub, opened, tmp_path):
    """A directory that save_pretrained wrote alone gets a reference and a card."""
    tiny_model(BlendEncoderForSequenceClassification).save_pretrained(tmp_path / "m")
    assert main([str(tmp_path / "m"), "--repo_id", "someone/m"]) == 0
    files = hub.repos["someone/m"].files("main")
    assert REFERENCE in files and ModelCard(files["README.md"].decode()).data.pipeline_tag == "text-classification"
    assert seqblend.verify("someone/m") == {"last_hidden_state": 0.0, "logits": 0.0}


def test_what_the_trainer_was_told_stands_on_the_card_that_the_command_writes(hub, opened, tmp_path):
    """The command writes the card again, for another repository, and would lose a license."""
    given = CardData(license="mit", summary="For tests.")
    trainer = trainer_of(BlendEncoderForSequenceClassification, tmp_path, given)
    trainer.save_model()
    trainer.create_model_card(language="ko")
    before = (tmp_path / "README.md").read_text()
    assert main([str(tmp_path), "--repo_id", "someone/another"]) == 0
    for card in (before, hub.repos["someone/another"].files("main")["README.md"].decode()):
        assert "\nFor tests.\n" in card
        assert (ModelCard(card).data.license, ModelCard(card).data.language) == ("mit", "ko")


# --- What is refused before anything is sent ---


def assert_refused(hub, directory, words, capsys, flags=()):
    """The command says why in one line; the Hub was not changed, and no traceback was printed."""
    assert main([str(directory), "--repo_id", "someone/model", *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1, error
    assert not [word for word in words if word not in error], error
    assert not hub.repos


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "modeling_layers.py", "configuration_encoder.py"]
)
def test_an_incomplete_directory_is_refused(name, hub, opened, model_dir, capsys):
    (model_dir / name).unlink()
    (model_dir / REFERENCE).unlink()
    assert_refused(hub, model_dir, [str(model_dir)] + [name] * (name != "config.json"), capsys)


def test_a_repository_that_does_not_open_is_refused(hub, forked, model_dir, capsys):
    """Truly opened, in a fresh process: a name that the code does not have, and outputs that are not those."""
    code = (model_dir / "modeling_heads.py").read_text()
    (model_dir / "modeling_heads.py").write_text(code.replace("import", "import no_such_thing, ", 1))
    assert_refused(hub, model_dir, ["modeling_heads.py is not what seqblend", "It is not run"], capsys)
    trusted = ["--trust_remote_code", "true"]
    words = ["cannot be loaded without seqblend", "nothing was sent"]
    assert_refused(hub, model_dir, words, capsys, trusted)
    (model_dir / "modeling_heads.py").write_text(code)
    weights = safetensors.torch.load_file(model_dir / "model.safetensors")
    weights["score.weight"] = weights["score.weight"] + 1
    safetensors.torch.save_file(weights, model_dir / "model.safetensors", {"format": "pt"})
    assert_refused(hub, model_dir, ["logits differs from the reference"], capsys)


@pytest.mark.parametrize(
    "what", ["path", "home", "token", "other token"], ids=["path", "home", "token", "token of another service"]
)
def test_what_is_private_is_refused(what, hub, opened, model_dir, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/some-body")
    monkeypatch.setenv("TRACKER_API_KEY", "key-of-a-tracker")
    private = {
        "path": str(model_dir),
        "home": "/home/some-body/models",
        "token": WRITER,
        "other token": "key-of-a-tracker",
    }[what]
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({**config, "from": private}, indent=1))
    kind = "a token" if "token" in what else "a path of this machine"
    assert_refused(hub, model_dir, ["config.json: line", f"holds {kind}", "nothing was sent"], capsys)
    assert_refused(hub, model_dir, [], capsys)


def test_metadata_of_weights_are_looked_through(hub, opened, model_dir):
    weights = safetensors.torch.load_file(model_dir / "model.safetensors")
    metadata = {"format": "pt", "made": str(model_dir)}
    safetensors.torch.save_file(weights, model_dir / "model.safetensors", metadata)
    with pytest.raises(PublishError, match=r"model\.safetensors: line 1 holds a path"):
        check_no_secrets(repository_files(model_dir))


def test_a_grep_of_all_that_is_pushed_finds_nothing_private(hub, opened, tmp_path, monkeypatch):
    """A composite built from loaded parts, pushed in every way; the token, the paths and the user's name."""
    monkeypatch.setenv("HOME", "/home/some-body")
    encoder_class, decoder_class, both_class = FAMILIES
    for config_class, name in ((encoder_class, "encoder"), (decoder_class, "decoder")):
        options = {"cross_attention_hidden_size": 32} if name == "decoder" else {}
        model = FAMILIES[config_class][transformers.AutoModel](tiny_config(config_class, **options))
        model.save_pretrained(tmp_path / name)
    parts = {name: transformers.AutoConfig.from_pretrained(tmp_path / name) for name in ("encoder", "decoder")}
    config = both_class(**parts, decoder_start_token_id=1, pad_token_id=0, num_labels=LABELS)
    model_class = FAMILIES[both_class][transformers.AutoModelForSeq2SeqLM]
    model = model_class(config)
    model.push_to_hub("someone/plain")
    trainer = trainer_of(
        model_class, tmp_path / "trained", hub_strategy="all_checkpoints", load_best_model_at_end=False
    )
    trainer.train()
    trainer.push_to_hub()
    words = [str(tmp_path), str(Path.cwd()), "/home/", "some-body", WRITER, "/tmp/"]
    user = getpass.getuser()
    words += [user] if user != "root" else []  # which is a word of the code
    contents = {
        (name, commit.id, path): content
        for name, repo in hub.repos.items()
        for commit in repo.commits("main")
        for path, content in repo.files(commit.id).items()
    }
    assert {"someone/plain", trainer.hub_model_id} == {name for name, _, _ in contents}
    assert any(path.startswith("checkpoint-1/") for _, _, path in contents)
    found = [(place, word) for place, content in contents.items() for word in words if word.encode() in content]
    assert not found


# --- The Trainer ---


def test_pushes_of_each_strategy(hub, opened, tmp_path):
    """`end` pushes once; `checkpoint` keeps what a run resumes from; a resumed run goes on from there."""
    for strategy, folders in (("end", set()), ("checkpoint", {"last-checkpoint"})):
        trainer = trainer_of(
            BlendEncoderForSequenceClassification,
            tmp_path / strategy,
            hub_strategy=strategy,
            hub_model_id=f"someone/{strategy}",
        )
        trainer.train()
        files = hub.repos[f"someone/{strategy}"].files("main")
        assert {name.split("/")[0] for name in files if "/" in name} == folders
        assert ("config.json" in files) == (strategy != "end")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"):
        assert f"last-checkpoint/{name}" in files
    assert "last-checkpoint/training_args.bin" not in files and "training_args.bin" not in files
    for name, content in files.items():
        path = tmp_path / "again" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    trainer = trainer_of(
        BlendEncoderForSequenceClassification, tmp_path / "more", max_steps=3, hub_model_id="someone/more"
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "again" / "last-checkpoint"))
    assert trainer.state.global_step == 3


def test_a_push_that_fails_in_mid_training_does_not_stop_it(hub, opened, tmp_path, caplog):
    trainer = trainer_of(BlendEncoderForSequenceClassification, tmp_path / "out")
    hub.fault = lambda index, method, path: 500 if "/commit/" in path else None
    trainer.train()
    assert trainer.state.global_step == 2 and "Training continues, but the push to" in caplog.text
    # What the message names is there.
    assert f"The complete model is in {tmp_path / 'out' / 'checkpoint-2'};" in caplog.text
    assert not list((tmp_path / "out").glob("_push-*"))
    hub.fault = None
    trainer.push_to_hub()
    assert "config.json" in hub.repos[trainer.hub_model_id].files("main")


def test_a_push_as_it_is(hub, forked, tmp_path, monkeypatch):
    """Nothing is left out here: half precision, learned positions, an example longer than they reach, and two heads
    with a hidden layer of another shape.

    Before it is sent, it is truly opened, in a fresh process, in every Auto class.
    """
    opened = []
    monkeypatch.setattr(publishing, "verify_isolated", lambda directory: opened.append(verify_isolated(directory)))
    trainer = trainer_of(
        BlendEncoderForSequenceClassification,
        tmp_path / "out",
        given=CardData(example="abc" * 50),
        model_options={"position_type": "learned", "embedding_size": 16, "classifier_hidden_act": "gelu"},
        bf16=True,
        save_strategy="no",
        logging_steps=1,
    )
    trainer.train()
    trainer.push_to_hub(tags="mine")
    names = {auto_class.__name__ for auto_class in FAMILIES[BlendEncoderModel.config_class]}
    assert len(opened) == 1 and set(opened[0]) == names
    assert opened[0]["AutoModelForSequenceClassification"] == {"last_hidden_state": 0.0, "logits": 0.0}
    assert opened[0]["AutoModelForMaskedLM"] == {"last_hidden_state": 0.0}
    files = hub.repos[trainer.hub_model_id].files("main")
    card = files["README.md"].decode()
    assert "pictures/learning_curves.png" in files and "pictures/blending.png" in files
    assert "| hardware | not measured" not in card and "| epochs, steps | 2, 2 |" in card
    assert "mine" in ModelCard(card).data.tags
    assert set(seqblend.verify(tmp_path / "out").values()) == {0.0}


def test_an_earlier_state_does_not_come_after_a_later_one(hub, opened, tmp_path, monkeypatch):
    """The first checkpoint takes longest to check; pushes in parallel would leave it on top."""
    delays = iter([1.5, 0.0, 0.0])
    monkeypatch.setattr(publishing, "verify_isolated", lambda directory: time.sleep(next(delays)))
    trainer = trainer_of(BlendEncoderForSequenceClassification, tmp_path / "out")
    trainer.train()
    # Else there may be nothing new to push: the last checkpoint has the same weights, and perhaps the same card.
    trainer.publisher.given = CardData(license="mit")
    trainer.push_to_hub()
    titles = [commit.title for commit in hub.repos[trainer.hub_model_id].commits("main")]
    assert titles[:3] == ["End of training", "Training in progress, step 2", "Training in progress, step 1"]


def test_a_full_disk_in_staging_does_not_stop_training(hub, opened, tmp_path, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seqblend.training.publisher.shutil.copytree", full)
    trainer = trainer_of(BlendEncoderForSequenceClassification, tmp_path / "out")
    trainer.train()
    assert trainer.state.global_step == 2 and "No space left" in caplog.text
    assert not list((tmp_path / "out").glob("_push-*"))


def test_copies_of_a_killed_push_do_not_stay(tmp_path):
    """They are links to the files of checkpoints, which would stay on the disk when those are deleted."""
    copy = tmp_path / "_push-killed"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes(b"weights")
    trainer_of(BlendEncoderForSequenceClassification, tmp_path, push_to_hub=False).train()
    assert not copy.exists() and (tmp_path / "checkpoint-2").exists()


def test_pushing_changes_nothing_of_the_training(hub, opened, tmp_path):
    """Weights are bit for bit those of a run that pushes nothing."""
    weights = []
    for push in (True, False):
        transformers.set_seed(0)
        trainer = trainer_of(BlendEncoderForSequenceClassification, tmp_path / str(push), push_to_hub=push)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_access_is_checked_before_training(hub, opened, tmp_path, capsys, monkeypatch):
    """Token, name and network; before the data are read, so that a file that is not there is not reached."""
    words = ["--task", "masked-lm", "--train_file", "none.jsonl", "--output_dir", str(tmp_path / "out")]
    words += ["--push_to_hub", "true", "--hub_model_id", "somebody-else/model"]
    assert train(words) == 2
    assert "the token is of someone, not of somebody-else" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_nobody_0123456789")
    assert train(words) == 2
    assert "the token is missing or not valid" in capsys.readouterr().err
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert train(words) == 2
    assert "the Hub cannot be used" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert train(words) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert not hub.repos and not (tmp_path / "out").exists()


def test_a_run_that_trains_nothing_pushes_nothing(hub, opened, tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    words = [
        "--task",
        "masked-lm",
        "--train_file",
        str(tmp_path / "train.jsonl"),
        "--test_file",
        str(tmp_path / "train.jsonl"),
    ]
    words += [
        "--push_to_hub",
        "true",
        "--hub_model_id",
        "m",
        "--do_train",
        "false",
        "--output_dir",
        str(tmp_path / "o"),
    ]
    assert train(words) == 2
    assert (
        "push_to_hub: nothing is trained; to push a saved model, use seqblend publish" in capsys.readouterr().err
        and not hub.repos
    )


def test_names_without_an_owner_are_the_users(hub):
    assert check_access(Destination("model")) == "someone/model"
    with pytest.raises(PublishError, match="the token is of someone, not of other"):
        check_access(Destination("other/model"))


# --- Others who push ---


def test_a_card_that_is_there_is_kept(hub, opened):
    """model.push_to_hub writes a card where there is none; what somebody wrote stays."""
    model = tiny_model(BlendEncoderModel)
    model.push_to_hub("someone/model", tags=["mine"])
    files = hub.repos["someone/model"].files("main")
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "feature-extraction" and "mine" in card.data.tags
    assert "[More Information Needed]" not in card.content
    HfApi().upload_file(path_or_fileobj=b"# Mine\n", path_in_repo="README.md", repo_id="someone/model")
    model.config.label_smoothing = 0.5
    model.push_to_hub("someone/model")
    assert "# Mine" in hub.repos["someone/model"].files("main")["README.md"].decode()


@pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendEncoderForSequenceClassification], ids=named)
def test_verify(model_class, hub, opened, tmp_path):
    saved(model_class, tmp_path / "m")
    publish(tmp_path / "m", Destination("someone/m"))
    errors = seqblend.verify(tmp_path / "m")
    assert errors == seqblend.verify("someone/m", revision="main") and set(errors.values()) == {0.0}
    weights = safetensors.torch.load_file(tmp_path / "m" / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.0.mlp.up_proj.weight"))
    safetensors.torch.save_file({**weights, name: weights[name] * 1.01}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(ValueError, match="last_hidden_state differs from the reference by"):
        seqblend.verify(tmp_path / "m")
    (tmp_path / "m" / REFERENCE).unlink()
    with pytest.raises(ValueError, match="no such file; seqblend publish writes it"):
        seqblend.verify(tmp_path / "m")


@pytest.mark.parametrize("lacks", [None, "last_hidden_state", "attention_mask"])
def test_a_reference_with_which_nothing_can_be_compared_is_refused(lacks, tmp_path):
    """One that is cut off, or without outputs: it was no error that nothing was compared."""
    saved(BlendEncoderForSequenceClassification, tmp_path)
    path = write_reference(load_saved(tmp_path), tmp_path)
    if lacks is None:
        path.write_bytes(path.read_bytes()[:300])
    else:
        tensors = safetensors.torch.load_file(path)
        safetensors.torch.save_file({name: each for name, each in tensors.items() if name != lacks}, path)
    reason = "cannot be read" if lacks is None else f"has no {lacks}"
    with pytest.raises(ValueError, match=f"reference.safetensors: {reason}.*; delete it to write it again"):
        seqblend.verify(tmp_path)


@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM], ids=named)
def test_generation_is_verified(model_class, tmp_path, monkeypatch):
    """A forward that does not read the cache gives right outputs, and wrong text: so did all when it was renamed."""
    saved(model_class, tmp_path)
    assert set(seqblend.verify(tmp_path).values()) == {0.0}
    forward = BlendDecoderModel.forward

    @wraps(forward)
    def without_cache(self, *args, cache=None, attention_mask=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BlendDecoderModel, "forward", without_cache)
    with pytest.raises(ValueError, match=r"generate\(\) computes other logits .* does not fit transformers"):
        seqblend.verify(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM], ids=named)
def test_generation_is_verified_in_every_precision(model_class, dtype):
    """Rounding is not taken for a fault; generate() returns logits in 32 bits."""
    model = tiny_model(model_class).to(dtype).eval()
    check_generation(model, reference_inputs(model))


@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM], ids=named)
def test_settings_and_float64_are_no_fault_of_generation(model_class, tmp_path, capfd):
    """generate() read the settings of the model, which may need a tokenizer, and returns logits in float32."""
    model = tiny_model(model_class)
    settings = {"stop_strings": ["a"], "max_length": 20, "num_return_sequences": 2, "use_cache": False}
    model.generation_config.update(**settings, do_sample=True)
    model.save_pretrained(tmp_path)
    write_reference(model, tmp_path)
    capfd.readouterr()
    assert model.dtype == torch.float64 and set(seqblend.verify(tmp_path).values()) == {0.0}
    assert "generat" not in capfd.readouterr().err


def test_generation_of_equal_logits_is_verified():
    """They have no deviation: an output matrix of zeros, as some training starts with."""
    model = tiny_model(BlendDecoderForCausalLM, tie_word_embeddings=False).eval()
    torch.nn.init.zeros_(model.lm_head.weight)
    check_generation(model, reference_inputs(model))


def test_verify_names_code_of_an_older_version(tmp_path, caplog):
    """seqblend runs its own code, and others would run that."""
    saved(BlendEncoderModel, tmp_path)
    seqblend.verify(tmp_path)
    assert "the code is of" not in caplog.text
    path = tmp_path / "modeling_encoder.py"
    path.write_text(path.read_text().replace(f"of seqblend {seqblend.__version__}", "of seqblend 0.1.0"))
    (tmp_path / REFERENCE).unlink()
    with pytest.raises(ValueError, match="no such file"):
        seqblend.verify(tmp_path)
    assert "the code is of seqblend 0.1.0 and runs where seqblend is not installed" in caplog.text


def test_a_single_number_is_verified_by_its_size():
    """It has no standard deviation: one row, one output."""
    model = tiny_model(BlendEncoderForSequenceClassification, num_labels=1).float()
    inputs = {name: tensor[:1] for name, tensor in reference_inputs(model).items()}
    expected = {"logits": compute_outputs(model, inputs)["logits"]}
    assert expected["logits"].numel() == 1
    assert compare_outputs(model, inputs, expected) == {"logits": 0.0}
    errors = compare_outputs(model, inputs, {"logits": expected["logits"] * (1 + 1e-6)})
    assert 0 < errors["logits"] < 1e-5
    with pytest.raises(ValueError, match="logits differs from the reference"):
        compare_outputs(model, inputs, {"logits": expected["logits"] * 1.01})
