"""--average_checkpoints: the mean of the last checkpoints, by hand and after a kill, and what is refused."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_resume import At, Killed, kill, trainer_for

from seqblend.checkpoints.averaging import check_averaging_run
from seqblend.checkpoints.store import RunError, checkpoints_in
from seqblend.data.errors import InputError


def mean_of(checkpoints):
    tensors = [load_file(Path(each, "model.safetensors")) for each in checkpoints]
    return {name: torch.stack([each[name].double() for each in tensors]).mean(0).float() for name in tensors[0]}


def weights_of(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def test_the_weights_are_the_mean_of_the_last_checkpoints(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trainer = trainer_for(tmp_path, average_checkpoints=3)
    trainer.train()
    checkpoints = checkpoints_in(tmp_path)
    assert [Path(each).name for each in checkpoints[-3:]] == ["checkpoint-3", "checkpoint-4", "checkpoint-5"]
    found, expected = weights_of(trainer), mean_of(checkpoints[-3:])
    last = load_file(Path(checkpoints[-1], "model.safetensors"))
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert any(not torch.equal(found[name], last[name]) for name in last)
    # Tied weights are one tensor.
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert "weights: the mean of the checkpoints of the steps 3, 4, 5" in caplog.text
    # What is saved, and evaluated, are these weights.
    trainer.save_model()
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], expected[name]) for name in expected)


@pytest.mark.parametrize("step", [1, 4, 5])
@pytest.mark.parametrize("limit", [None, 2])
def test_a_killed_run_ends_with_the_same_weights(step, limit, tmp_path):
    options = {"average_checkpoints": 2, "save_total_limit": limit}
    whole = trainer_for(tmp_path / "whole", **options)
    whole.train()
    with pytest.raises(Killed):
        trainer_for(tmp_path / "killed", callbacks=[At(step, kill)], **options).train()
    resumed = trainer_for(tmp_path / "killed", **options)
    # Before the first checkpoint there is nothing to resume from.
    resumed.train(resume_from_checkpoint=step > 1)
    for name, tensor in weights_of(whole).items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_a_run_that_was_killed_while_it_averaged(tmp_path, monkeypatch):
    """All steps are done: the checkpoints are averaged again."""
    from seqblend.training import trainer as module

    expected = trainer_for(tmp_path / "whole", average_checkpoints=2)
    expected.train()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "average_last", lambda *_: kill())
        trainer_for(tmp_path / "run", average_checkpoints=2).train()
    resumed = trainer_for(tmp_path / "run", average_checkpoints=2)
    resumed.train(resume_from_checkpoint=True)
    for name, tensor in weights_of(expected).items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_checkpoints_of_an_earlier_run_are_not_averaged(tmp_path):
    trainer_for(tmp_path, max_steps=2, seed=7).train()
    trainer_for(tmp_path, max_steps=3, save_steps=3, seed=7).train()
    trainer = trainer_for(tmp_path, max_steps=4, save_steps=2, average_checkpoints=2)
    trainer.train()
    expected = mean_of([tmp_path / "checkpoint-2", tmp_path / "checkpoint-4"])
    assert all(torch.equal(weights_of(trainer)[name], expected[name]) for name in expected)


def test_checkpoints_of_an_earlier_run_with_the_same_settings_are_not_averaged(tmp_path):
    """Its settings do not tell it apart, but it began with other weights."""
    earlier = trainer_for(tmp_path)
    with torch.no_grad():
        for parameter in earlier.model.parameters():
            parameter.add_(1.0)
    earlier.train()
    options = {"max_steps": 4, "save_steps": 2, "average_checkpoints": 2}
    trainer = trainer_for(tmp_path, **options)
    trainer.train()
    assert (tmp_path / "checkpoint-3").exists()
    expected = mean_of([tmp_path / "checkpoint-2", tmp_path / "checkpoint-4"])
    assert all(torch.equal(weights_of(trainer)[name], expected[name]) for name in expected)


def test_a_damaged_checkpoint_is_named(tmp_path):
    def damage():
        path = tmp_path / "checkpoint-4" / "model.safetensors"
        tensors = load_file(path)
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, path)

    with pytest.raises(RunError, match=r"average_checkpoints: .*checkpoint-4 is damaged: .*model.safetensors"):
        trainer_for(tmp_path, average_checkpoints=2, callbacks=[At(5, damage)]).train()


def test_too_few_checkpoints_are_named(tmp_path):
    with pytest.raises(InputError, match="the run saves 2 of 3 checkpoints; save more often"):
        trainer_for(tmp_path, average_checkpoints=3, save_steps=2, max_steps=4).train()
    # An epoch has two steps, and three epochs would be enough.
    options = {"save_strategy": "epoch", "max_steps": 4, "num_train_epochs": 3}
    with pytest.raises(InputError, match="the run saves 2 of 3 checkpoints; save more often"):
        trainer_for(tmp_path, average_checkpoints=3, **options).train()


def test_the_best_checkpoint_is_kept_besides_and_not_averaged(tmp_path):
    options = {"average_checkpoints": 2, "metric_for_best_model": "score", "eval_strategy": "steps", "eval_steps": 1}
    with pytest.raises(InputError, match="2 checkpoints need save_total_limit=3, one of them for the best"):
        trainer_for(tmp_path, **options, save_total_limit=2)
    trainer = trainer_for(tmp_path, **options, save_total_limit=3, scores=[0.9, 0.1, 0.2, 0.3, 0.4])
    trainer.train()
    assert trainer.state.best_global_step == 1
    expected = mean_of([tmp_path / "checkpoint-4", tmp_path / "checkpoint-5"])
    assert all(torch.equal(weights_of(trainer)[name], expected[name]) for name in expected)


def test_checkpoints_of_another_run_are_not_averaged_after_a_resume(tmp_path):
    options = {"average_checkpoints": 2, "save_steps": 2, "max_steps": 4}
    trainer_for(tmp_path, max_steps=3, save_steps=3, seed=7).train()
    with pytest.raises(Killed):
        trainer_for(tmp_path, callbacks=[At(3, kill)], **options).train()
    trainer = trainer_for(tmp_path, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected = mean_of([tmp_path / "checkpoint-2", tmp_path / "checkpoint-4"])
    assert all(torch.equal(weights_of(trainer)[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average_checkpoints": 1}, "must be 2 or more, got 1"),
        ({"average_checkpoints": 2, "save_strategy": "no"}, "needs checkpoints, but save_strategy is no"),
        (
            {"average_checkpoints": 2, "save_strategy": "best"},
            "needs save_strategy steps or epoch; best may save",
        ),
        ({"average_checkpoints": 3, "save_total_limit": 2}, "3 checkpoints need save_total_limit=3, but it is 2"),
        (
            {"average_checkpoints": 2, "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1},
            "does not go together with load_best_model_at_end",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_does_not_go_together_is_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=f"average_checkpoints: {message}"):
        trainer_for(tmp_path, **options)


@pytest.mark.parametrize("name", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_what_accelerate_chooses_is_refused(name, tmp_path):
    """accelerate launch leaves the options fsdp and deepspeed empty."""
    trainer = trainer_for(tmp_path, average_checkpoints=2)
    setattr(trainer, name, True)
    with pytest.raises(InputError, match="does not go together with FSDP and DeepSpeed"):
        trainer.train()


def test_a_search_is_refused(tmp_path):
    trainer = trainer_for(tmp_path, average_checkpoints=2)
    with pytest.raises(InputError, match="does not go together with a hyperparameter search"):
        check_averaging_run(trainer, is_search=True)
    check_averaging_run(trainer_for(tmp_path), is_search=True)
