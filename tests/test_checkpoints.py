"""Checkpoints: what is damaged is named and passed over, what is no checkpoint stays, and nothing is half deleted."""

import errno
import json
import os
import pickle
import re
import resource
import shutil
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_model
from rows import collator_of
from safetensors.torch import load_file, save_file
from test_resume import MODEL, OPTIONS, ROWS, TOKENIZER, stream, trainer_for
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import sort_checkpoints

from seqblend import BlendDecoderForCausalLM
from seqblend.checkpoints.faults import fault_of
from seqblend.checkpoints.store import REPLACED, STAGE, RunError, clear_stage, newest_good, write_manifest
from seqblend.checkpoints.writer import reason_not_written
from seqblend.data.errors import InputError
from seqblend.training.publisher import Publisher


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with two checkpoints."""
    output_dir = tmp_path_factory.mktemp("saved")
    trainer_for(output_dir, max_steps=2).train()
    return output_dir


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "changed": flip,
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_to_any_file_is_named_and_the_one_before_is_used(damage, saved, tmp_path, caplog):
    names = [path.name for path in (saved / "checkpoint-2").iterdir()]
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json", "position.pt"} < set(names)
    for name in names:
        output_dir = shutil.copytree(saved, tmp_path / name)
        damage(output_dir / "checkpoint-2" / name)
        caplog.clear()
        assert newest_good(output_dir) == str(output_dir / "checkpoint-1")
        assert f"checkpoint-2 is damaged: {name}" in caplog.text or name == "manifest.json"


def test_a_checkpoint_of_transformers_is_opened_as_it_has_no_manifest(saved, tmp_path):
    for name in ("model.safetensors", "optimizer.pt", "config.json"):
        checkpoint = as_of_transformers(shutil.copytree(saved / "checkpoint-2", tmp_path / name))
        assert fault_of(checkpoint) is None
        DAMAGES["cut"](checkpoint / name)
        assert fault_of(checkpoint).startswith(f"{name} cannot be read")
        for path in checkpoint.glob("*.safetensors"):
            path.unlink()
        assert fault_of(checkpoint) == "it has no weights"


def as_of_transformers(checkpoint):
    """What transformers' own Trainer would have left."""
    for name in ("manifest.json", "run.json", "position.pt"):
        (checkpoint / name).unlink()
    return checkpoint


@pytest.mark.parametrize("content", ["{}", "null", "[1]", "{", '{"trainer_state.json": 1}'])
def test_a_manifest_that_is_none_makes_a_checkpoint_damaged(content, saved, tmp_path):
    checkpoint = shutil.copytree(saved / "checkpoint-2", tmp_path / "checkpoint-2")
    (checkpoint / "manifest.json").write_text(content)
    assert "manifest.json" in fault_of(checkpoint)


def test_a_damaged_checkpoint_is_not_resumed(saved, tmp_path):
    checkpoint = shutil.copytree(saved / "checkpoint-2", tmp_path / "checkpoint-2")
    DAMAGES["changed"](checkpoint / "optimizer.pt")
    with pytest.raises(InputError, match=r"checkpoint-2 is damaged: optimizer.pt is not what was written"):
        trainer_for(tmp_path).train(str(checkpoint))


@pytest.mark.parametrize(
    "options, words",
    [
        (
            {"optim": "sgd"},
            "optim: .*checkpoint-2 has the state of another optimizer: it has no .*momentum",
        ),
        ({"hidden_size": 16}, r"checkpoint-2 does not match the model: .*size mismatch for model\.embed_tokens"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded_is_refused_though_it_is_allowed(options, words, saved):
    allowed = ["optim", "hidden_size", "head_dim", "attention_scaling", "hidden_dropout", "trained_parameters"]
    options = {"allow_changed": allowed, "optim": options.get("optim", "adamw_torch"), **options}
    size = options.pop("hidden_size", None)
    trainer = trainer_for(saved.parent / "other", **options)
    if size is not None:
        trainer.model = tiny_model(BlendDecoderForCausalLM, hidden_size=size, num_hidden_layers=1).float()
    with pytest.raises(InputError, match=words):
        trainer.train(str(saved / "checkpoint-2"))


def rewrite(checkpoint, change, shards=1):
    """Change the tensors of a checkpoint, and write them into so many files."""
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    (checkpoint / "model.safetensors").unlink()
    names = [f"model-{number}.safetensors" for number in range(shards)] if shards > 1 else ["model.safetensors"]
    for number, name in enumerate(names):
        save_file({each: tensors[each] for each in sorted(tensors)[number::shards]}, checkpoint / name)
    if shards > 1:
        places = {each: names[index % shards] for index, each in enumerate(sorted(tensors))}
        (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    write_manifest(checkpoint)


MISFITS = {
    "missing": (lambda tensors: tensors.pop("model.norm.weight"), r"missing \['model.norm.weight'\], unexpected \[\]"),
    "unexpected": (lambda tensors: tensors.update(more=torch.zeros(1)), r"missing \[\], unexpected \['more'\]"),
    "shape": (
        lambda tensors: tensors.update({"model.norm.weight": torch.zeros(3)}),
        r"size mismatch for model.norm.weight: \[3\], not \[32\]",
    ),
}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("change, words", MISFITS.values(), ids=MISFITS)
def test_weights_that_do_not_fit_are_refused_before_any_is_loaded(change, words, shards, saved, tmp_path):
    checkpoint = shutil.copytree(saved / "checkpoint-2", tmp_path / "checkpoint-2")
    rewrite(checkpoint, change, shards)
    trainer = trainer_for(tmp_path / "out")
    before = deepcopy(trainer.model.state_dict())
    with pytest.raises(InputError, match=f"checkpoint-2 does not match the model: {words}"):
        trainer.train(str(checkpoint))
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_checkpoint_in_shards_is_resumed_and_says_nothing_of_tied_weights(saved, tmp_path, caplog):
    assert trainer_for(tmp_path).model.all_tied_weights_keys
    checkpoint = shutil.copytree(saved / "checkpoint-2", tmp_path / "checkpoint-2")
    for shards in (1, 2):
        trainer = trainer_for(tmp_path / str(shards), max_steps=3)
        trainer.train(str(checkpoint))
        assert trainer.state.global_step == 3
        rewrite(checkpoint, lambda tensors: None, 2) if shards == 1 else None
    assert "missing keys" not in caplog.text


def test_a_checkpoint_without_an_optimizer_is_told(saved, tmp_path, caplog):
    trainer_for(tmp_path, max_steps=1, save_only_model=True).train()
    trainer_for(tmp_path).train(True)
    assert "checkpoint-1 has no state of an optimizer, which starts without one" in caplog.text


def test_a_run_of_transformers_goes_on_as_ours(tmp_path):
    """Its checkpoint knows of no callback of ours."""
    args = TrainingArguments(output_dir=str(tmp_path), **{**OPTIONS, "max_steps": 2})
    Trainer(
        model=deepcopy(MODEL), args=args, train_dataset=ROWS, data_collator=collator_of("causal-lm", TOKENIZER)
    ).train()
    trainer = trainer_for(tmp_path)
    trainer.train(True)
    assert trainer.state.global_step == 5 and fault_of(tmp_path / "checkpoint-5") is None


def test_a_full_disk_is_named_where_torch_does_not(tmp_path, monkeypatch):
    error = RuntimeError("unexpected pos 8512 vs 8406")
    assert reason_not_written(error, tmp_path) == f"RuntimeError: {error}"
    monkeypatch.setattr("seqblend.checkpoints.writer.shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    assert reason_not_written(error, tmp_path) == f"No space left on device (RuntimeError: {error})"


@pytest.mark.parametrize("file", ["model.safetensors", "position.pt"])
def test_what_cannot_be_written_leaves_the_checkpoint_before(file, tmp_path, monkeypatch):
    """It is not deleted before the new one is there, though only one is to be kept."""

    def fill(path):
        if path.name == file and path.parent.name == "checkpoint-2":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("seqblend.checkpoints.store.synchronize", fill)
    words = r"checkpoint-2 cannot be written: OSError: .*No space left .*checkpoint-1; resume with --resume"
    with pytest.raises(RunError, match=words):
        trainer_for(tmp_path, save_total_limit=1).train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "run.json"}
    assert fault_of(tmp_path / "checkpoint-1") is None


def test_what_was_about_to_be_replaced_gets_its_place_back(saved, tmp_path):
    """A run that is killed between two renames has none of the two in its place."""
    output_dir = shutil.copytree(saved, tmp_path / "out")
    (output_dir / STAGE).mkdir()
    (output_dir / "checkpoint-2").rename(output_dir / STAGE / REPLACED)
    clear_stage(output_dir)
    assert {path.name for path in output_dir.iterdir()} == {"checkpoint-1", "checkpoint-2", "run.json"}
    assert newest_good(output_dir) == str(output_dir / "checkpoint-2")


@pytest.mark.parametrize("state", ["{", "{}", "[]", "[" * 200_000, '{"global_step": "x/../../escaped"}'], ids=len)
def test_what_was_about_to_be_replaced_and_is_damaged_is_named_and_the_others_are_used(state, saved, tmp_path, caplog):
    output_dir = shutil.copytree(saved, tmp_path / "out")
    (output_dir / STAGE / REPLACED).mkdir(parents=True)
    (output_dir / STAGE / REPLACED / "trainer_state.json").write_text(state)
    trainer_for(output_dir, max_steps=3).train(True)
    assert f"{REPLACED} is damaged: trainer_state.json " in caplog.text
    assert {path.name for path in output_dir.glob("*point-*")} == {f"checkpoint-{n}" for n in (1, 2, 3)}
    assert not (output_dir / STAGE).exists() and not (tmp_path / "escaped").exists()


def test_a_checkpoint_of_the_same_step_is_replaced(saved, tmp_path):
    output_dir = shutil.copytree(saved, tmp_path / "out")
    (output_dir / "checkpoint-2" / "old.json").write_text("{}")
    write_manifest(output_dir / "checkpoint-2")
    trainer_for(output_dir, max_steps=2).train()
    assert not (output_dir / "checkpoint-2" / "old.json").exists()
    assert {path.name for path in output_dir.iterdir()} == {"checkpoint-1", "checkpoint-2", "run.json"}


def test_a_model_that_cannot_be_saved_is_told_of_in_one_line(saved, tmp_path):
    """The disk is as good as full: no file may have more than so many bytes."""
    output_dir = shutil.copytree(saved, tmp_path / "out")
    trainer, limits = trainer_for(output_dir), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(
            RunError, match=r"out: the model is not saved: .*checkpoint-2; resume with --resume auto"
        ) as error:
            trainer.save_model()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)


# --- Links, and names of the user's ---


def linked(output_dir, name):
    """What stands somewhere else, and has a link in the directory."""
    place = output_dir.parent / "elsewhere" / name
    place.parent.mkdir(exist_ok=True)
    if (output_dir / name).exists():
        shutil.move(output_dir / name, place)
    else:
        place.mkdir()
        (place / "mine").write_text("mine")
    (output_dir / name).symlink_to(place)
    return place


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_checkpoint_that_is_a_link_is_of_this_directory(overwrite, saved, tmp_path, caplog):
    output_dir = shutil.copytree(saved, tmp_path / "out")
    place = linked(output_dir, "checkpoint-2")
    trainer_for(output_dir, max_steps=3, overwrite_output_dir=overwrite).train(True)
    assert {path.name for path in output_dir.glob("check*")} == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    assert "earlier run" not in caplog.text and "another directory" not in caplog.text and fault_of(place) is None


def test_of_a_link_the_link_alone_is_deleted(saved, tmp_path):
    """By a run that begins anew, by rotation, and in place of what a killed run was writing."""
    output_dir = shutil.copytree(saved, tmp_path / "out")
    places = [linked(output_dir, name) for name in ("checkpoint-2", STAGE)]
    before = [sorted(path.name for path in place.iterdir()) for place in places]
    trainer_for(output_dir, max_steps=3, save_total_limit=1).train(True)
    assert [path.name for path in output_dir.glob("check*")] == ["checkpoint-3"]
    places += [linked(output_dir, name) for name in ("checkpoint-3", "model.safetensors")]
    before += [sorted(path.name for path in place.iterdir()) for place in places[2:]]
    trainer_for(output_dir, max_steps=1, overwrite_output_dir=True).train()
    assert {path.name for path in output_dir.iterdir()} == {"checkpoint-1", "run.json"}
    assert [sorted(path.name for path in place.iterdir()) for place in places] == before


MINE = ("checkpoint-2023-notes", "checkpoint-1-mine", "my-checkpoint-1", "checkpoint-", "checkpoint-1 (copy)")


def test_only_names_that_are_exactly_those_of_checkpoints_are_the_runs(saved, tmp_path):
    """transformers' sort_checkpoints takes all that begin so: if that has changed, checkpoints_in can go."""
    output_dir = shutil.copytree(saved, tmp_path / "out")
    for name in MINE:
        shutil.copytree(output_dir / "checkpoint-1", output_dir / name)
    assert str(output_dir / MINE[0]) in sort_checkpoints(str(output_dir))
    trainer_for(output_dir, max_steps=3, save_total_limit=1).train(True)
    trainer_for(output_dir, max_steps=1, overwrite_output_dir=True).train()
    assert {path.name for path in output_dir.glob("*check*")} == {*MINE, "checkpoint-1"}


# --- What a checkpoint holds, though its manifest says that it is what was written ---


def of_json(name, change):
    """What changes the object in a file of a checkpoint; a text takes its place."""

    def act(checkpoint):
        path = checkpoint / name
        content = change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change})
        path.write_text(content)

    return act


def of_saved(name, change):
    """What changes what torch.save wrote into a file of a checkpoint."""

    def act(checkpoint):
        path = checkpoint / name
        content = torch.load(path, weights_only=False)
        torch.save(change(content) if callable(change) else {**content, **change}, path)

    return act


def without(name):
    return lambda content: {key: value for key, value in content.items() if key != name}


def of_parameter(**entries):
    """What changes the state of an optimizer's first parameter."""
    return lambda content: {**content, "state": {**content["state"], 0: {**content["state"][0], **entries}}}


def as_pickle(checkpoint):
    with (checkpoint / "position.pt").open("wb") as file:
        pickle.dump(Path("/x"), file)


DEEP = "[" * 200_000
STATE_JSON = "trainer_state.json"
WRONG = {
    "run.json is no JSON": of_json("run.json", DEEP),
    "run.json must hold an object": of_json("run.json", "[1]"),
    "run.json has no facts": of_json("run.json", {"facts": {}}),
    "run.json has no facts ": of_json("run.json", {"facts": "abc"}),
    "manifest.json does not name run.json": lambda checkpoint: (checkpoint / "run.json").unlink(),
    "manifest.json does not name position.pt": lambda checkpoint: (checkpoint / "position.pt").unlink(),
    "manifest.json does not name rng_state.pth": lambda checkpoint: (checkpoint / "rng_state.pth").unlink(),
    "manifest.json does not name optimizer.pt": lambda checkpoint: (checkpoint / "optimizer.pt").unlink(),
    "manifest.json does not name scheduler.pt": lambda checkpoint: (checkpoint / "scheduler.pt").unlink(),
    "manifest.json does not name the weights": lambda checkpoint: (checkpoint / "model.safetensors").unlink(),
    "config.json is no JSON": of_json("config.json", DEEP),
    "config.json must hold an object": of_json("config.json", "[]"),
    "position.pt must hold fields, but is a list": of_saved("position.pt", lambda content: [1]),
    "position.pt has epoch that is the text 'x'": of_saved("position.pt", {"epoch": "x"}),
    "position.pt has epoch that is the number -5": of_saved("position.pt", {"epoch": -5}),
    "position.pt has epoch that is the number 1000": of_saved("position.pt", {"epoch": 10**30}),
    "position.pt has batches that is null": of_saved("position.pt", {"batches": None}),
    "position.pt has no stream": of_saved("position.pt", without("stream")),
    "position.pt has no pending": of_saved("position.pt", {"losses": {"total": 1.0}}),
    "position.pt has total that is the text": of_saved(
        "position.pt", {"losses": {"total": "x", "pending": torch.zeros(()), "logged": 0}}
    ),
    "position.pt cannot be loaded": lambda checkpoint: (checkpoint / "position.pt").write_text("hello"),
    "position.pt cannot be loaded ": as_pickle,
    f"{STATE_JSON} must hold an object, but is a list": of_json(STATE_JSON, "[]"),
    f"{STATE_JSON} has no global_step": of_json(STATE_JSON, "{}"),
    f"{STATE_JSON} is no JSON": of_json(STATE_JSON, DEEP),
    f"{STATE_JSON} is no JSON (a number has 4000 digits)": of_json(STATE_JSON, '{"global_step": 1' + "0" * 3999 + "}"),
    f"{STATE_JSON} has fields that transformers does not know: foo": of_json(STATE_JSON, {"foo": 1}),
    f"{STATE_JSON} has global_step that is null": of_json(STATE_JSON, {"global_step": None}),
    f"{STATE_JSON} has global_step that is the number -3": of_json(STATE_JSON, {"global_step": -3}),
    f"{STATE_JSON} has best_model_checkpoint that is the number 5": of_json(STATE_JSON, {"best_model_checkpoint": 5}),
    f"{STATE_JSON} has log_history that is the text": of_json(STATE_JSON, {"log_history": "x"}),
    f"{STATE_JSON} has stateful_callbacks that is a list": of_json(STATE_JSON, {"stateful_callbacks": [1]}),
    f"{STATE_JSON} has stateful_callbacks that is an object": of_json(
        STATE_JSON, {"stateful_callbacks": {"RunRecord": {"args": {}, "attributes": {"facts": {"seconds": "x"}}}}}
    ),
    "scheduler.pt has no last_epoch": of_saved("scheduler.pt", lambda content: {}),
    "rng_state.pth has no python": of_saved("rng_state.pth", lambda content: {}),
    "rng_state.pth has cpu that is no state": of_saved("rng_state.pth", {"cpu": torch.zeros(3)}),
}


@pytest.mark.parametrize("words", WRONG)
def test_contents_that_no_trainer_writes_are_damage(words, saved, tmp_path, caplog):
    """Also where the manifest was written anew, so that it says that all is well."""
    output_dir = shutil.copytree(saved, tmp_path / "out")
    WRONG[words](output_dir / "checkpoint-2")
    write_manifest(output_dir / "checkpoint-2")
    assert newest_good(output_dir) == str(output_dir / "checkpoint-1")
    (line,) = caplog.messages
    assert f"checkpoint-2 is damaged: {words.strip()}" in line and "\n" not in line and len(line) < 500


# What shows only beside the model, its optimizer, its schedule and its data.
UNFIT = {
    "optimizer.pt: is no state of an optimizer": of_saved("optimizer.pt", lambda content: {}),
    "optimizer.pt: is no state of an optimizer ": of_saved("optimizer.pt", lambda content: [1]),
    "optimizer.pt: has no state of any parameter": of_saved("optimizer.pt", {"state": {}}),
    "optimizer.pt: has exp_avg of parameter 0 of shape [1], not [": of_saved(
        "optimizer.pt", of_parameter(exp_avg=torch.zeros(1))
    ),
    "optimizer.pt: has exp_avg of parameter 0 that is the text": of_saved("optimizer.pt", of_parameter(exp_avg="x")),
    "optimizer.pt: has no exp_avg_sq of parameter 0": of_saved(
        "optimizer.pt", lambda content: {**content, "state": {0: {"step": torch.tensor(1.0), "exp_avg": None}}}
    ),
    "scheduler.pt: is no state of a schedule": of_saved("scheduler.pt", without("lr_lambdas")),
    "scheduler.pt: has base_lrs that is the text": of_saved("scheduler.pt", {"base_lrs": "x"}),
    "position.pt: has batch 1000000000 of epoch 1, but the run has 2 epochs": of_saved(
        "position.pt", {"batches": 10**9}
    ),
    "position.pt: has batch 4 of epoch 8": of_saved("position.pt", {"epoch": 7}),
}


@pytest.mark.parametrize("words", UNFIT)
def test_states_that_do_not_fit_are_refused_and_their_file_is_named(words, saved, tmp_path):
    checkpoint = shutil.copytree(saved / "checkpoint-2", tmp_path / "checkpoint-2")
    UNFIT[words](checkpoint)
    write_manifest(checkpoint)
    with pytest.raises(InputError, match=re.escape(f"{checkpoint}/{words.strip()}")):
        trainer_for(tmp_path / "out").train(str(checkpoint))


def test_a_stream_whose_state_is_another_is_refused(tmp_path):
    trainer_for(tmp_path, stream(), max_steps=2).train()
    of_saved("position.pt", {"stream": {"x": 1}})(tmp_path / "checkpoint-2")
    write_manifest(tmp_path / "checkpoint-2")
    with pytest.raises(InputError, match=r"position.pt has no valid state of this stream \("):
        trainer_for(tmp_path, stream()).train(True)


def test_a_checkpoint_of_an_earlier_version_has_less(saved, tmp_path):
    """It knows no name of its run, in its state neither."""
    checkpoint = shutil.copytree(saved / "checkpoint-2", tmp_path / "checkpoint-2")
    (checkpoint / "run.json").unlink()
    of_json(STATE_JSON, {"stateful_callbacks": {}})(checkpoint)
    write_manifest(checkpoint)
    assert fault_of(checkpoint) is None


def test_a_schedule_of_another_kind_may_follow_one_that_waited(tmp_path):
    waits = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    trainer_for(tmp_path, max_steps=2, lr_scheduler_type="reduce_lr_on_plateau", **waits).train()
    allowed = {"lr_scheduler_type": "linear", "allow_changed": ["lr_scheduler_type", "lr_scheduler_kwargs"]}
    resumed = trainer_for(tmp_path, max_steps=4, **waits, **allowed)
    resumed.train(True)
    assert resumed.state.global_step == 4 and resumed.lr_scheduler.get_last_lr()[0] == 0.0


@pytest.mark.parametrize("error, has_traceback", [(OSError("full"), False), (TypeError("failed"), True)])
def test_a_checkpoint_that_is_not_pushed_for_an_error_in_the_code_has_a_traceback(
    error, has_traceback, tmp_path, monkeypatch, caplog
):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("seqblend.training.publisher.write_card", fail)
    (tmp_path / "checkpoint-1").mkdir()
    trainer = SimpleNamespace(
        model=None,
        args=SimpleNamespace(output_dir=str(tmp_path), hub_strategy="every_save", hub_revision=None),
        is_world_process_zero=lambda: True,
        callback_handler=SimpleNamespace(on_push_begin=lambda *args: None),
        state=None,
        control=None,
        hub_model_id="one/two",
    )
    Publisher(trainer, None).push_checkpoint(tmp_path / "checkpoint-1")
    record = caplog.records[-1]
    assert str(error) in record.getMessage() and bool(record.exc_info) == has_traceback
    assert os.listdir(tmp_path) == ["checkpoint-1"]
