"""However a command ends, it says in one line what is safe and how to go on, and no file of it is half-written."""

import errno
import os
import signal
import sys
import time
from importlib.util import find_spec, module_from_spec

import pytest
from test_train_command import CLASSIFY, ROWS, files, flags, plain_cards, quick_and_quiet, read, run  # noqa: F401

from seqblend import train
from seqblend.checkpoints.signals import terminable
from seqblend.data.locks import lock_directory
from seqblend.data.writing import atomic_writer, write_atomically

SIGNALS = {signal.SIGTERM: ("SIGTERM", 143), signal.SIGINT: ("Ctrl-C", 130)}
SAVED = {"save_strategy": "steps", "save_steps": 1}


def send(number):
    def act(*args, **kwargs):
        os.kill(os.getpid(), number)

    return act


@pytest.mark.parametrize("number", SIGNALS, ids=["SIGTERM", "SIGINT"])
def test_a_signal_before_training_says_that_nothing_was_trained(number, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "make_model", send(number))
    name, code = SIGNALS[number]
    assert train.main(flags(tmp_path / "out", files(tmp_path, ROWS[CLASSIFY], ["train"]))) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"{name}: nothing was trained yet"
    assert not (tmp_path / "out").exists() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("number", SIGNALS, ids=["SIGTERM", "SIGINT"])
def test_a_signal_after_training_says_that_the_model_is_saved(number, saved, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    options = {**files(tmp_path, ROWS[CLASSIFY]), **(SAVED if saved else {})}
    with monkeypatch.context() as patch:
        patch.setattr("seqblend.train.json_line", send(number))
        assert train.main(flags(out, options)) == SIGNALS[number][1]
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"{SIGNALS[number][0]}: the model is trained, and saved in {out}")
    assert ("--resume auto does the remaining steps" in told) == saved
    run(out, resume="auto", overwrite_output_dir=None if saved else True, **options)
    assert len((out / "predictions.jsonl").read_text().splitlines()) == len(ROWS[CLASSIFY])


@pytest.mark.parametrize("number", SIGNALS, ids=["SIGTERM", "SIGINT"])
def test_a_signal_when_no_step_is_left_ends_the_run_too(number, tmp_path, capsys, monkeypatch):
    """It was noted, and the run evaluated, predicted and pushed on."""
    monkeypatch.setattr("seqblend.training.trainer.BlendTrainer._finish_current_push", send(number))
    options = {**files(tmp_path, ROWS[CLASSIFY]), **SAVED}
    assert train.main(flags(tmp_path / "out", options)) == SIGNALS[number][1]
    assert "resume with --resume auto" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "train_results.json").exists()


def test_a_child_that_sigterm_ends_prints_no_traceback(capfd):
    """As the workers that turn rows into tokens, when one of them has failed."""
    ready, started = os.pipe()
    with terminable():
        child = os.fork()
        if not child:
            os.write(started, b"1")
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_a_checkpoint_that_is_wanted_may_be_an_earlier_one(tmp_path, capsys):
    """--resume_from_checkpoint true, as transformers has it."""
    options = {**files(tmp_path, ROWS[CLASSIFY], ["train"]), **SAVED, "max_steps": 2}
    out = run(tmp_path / "out", **options)
    (out / "checkpoint-2" / "optimizer.pt").unlink()
    run(out, resume_from_checkpoint="true", **options)
    for number in (1, 2):
        (out / f"checkpoint-{number}" / "optimizer.pt").unlink()
    assert train.main(flags(out, {**options, "resume_from_checkpoint": "true"})) == 2
    assert "there is no good checkpoint" in capsys.readouterr().err.splitlines()[-1]


def test_another_run_is_not_deleted_if_this_one_starts_from_it(tmp_path, capsys):
    options = {**files(tmp_path, ROWS[CLASSIFY], ["train"]), **SAVED}
    out = run(tmp_path / "out", **options)
    both = {"resume": "auto", "overwrite_output_dir": True, "seed": 7}
    given = {"model_name_or_path": out / "checkpoint-1", "tokenizer_type": None, "config_overrides": None, **both}
    assert train.main(flags(out, {**options, **given})) == 2
    assert "would delete model_name_or_path" in capsys.readouterr().err and (out / "checkpoint-1").is_dir()


def test_who_listens_to_sigterm_already_goes_on_to(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]


@pytest.mark.parametrize("name", ["train_results.json", "all_results.json", "predictions.jsonl", "trainer_state.json"])
def test_a_full_disk_after_training_names_the_file_and_the_way_on(name, tmp_path, capsys, monkeypatch):
    def fill(descriptor):
        if f".{name}.part" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    options = {**SAVED, **files(tmp_path, ROWS[CLASSIFY])}
    with monkeypatch.context() as patch:
        patch.setattr("seqblend.data.writing.os.fsync", fill)
        assert train.main(flags(tmp_path / "out", options)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"No space left on device: '{tmp_path / 'out' / name}'" in error and "--resume auto" in error
    assert not list((tmp_path / "out").glob(".*"))
    run(tmp_path / "out", resume="auto", **options)


def test_results_that_are_damaged_are_named_and_written_anew(tmp_path, caplog):
    options = {**SAVED, **files(tmp_path, ROWS[CLASSIFY])}
    out = run(tmp_path / "out", **options)
    whole = read(out / "all_results.json")
    for content in ("", '{"eval_', "[1]", "7", "[" * 200_000):
        (out / "all_results.json").write_text(content)
        (out / "predictions.jsonl").write_text('{"input": "a')
        caplog.clear()
        run(out, resume="auto", **options)
        assert set(read(out / "all_results.json")) == set(whole)
        assert f"{out / 'all_results.json'} is damaged" in caplog.text


def test_a_run_that_was_over_tells_its_loss_again(tmp_path):
    """It said 0.0."""
    options = {**SAVED, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    out = run(tmp_path / "out", **options)
    loss = read(out / "train_results.json")["train_loss"]
    run(out, resume="auto", **options)
    assert read(out / "train_results.json")["train_loss"] == loss != 0


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    write_atomically(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), atomic_writer(tmp_path / "a") as file:
        file.write(str(1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_two_commands_do_not_write_into_one_directory(tmp_path):
    """One of two was always lost; a child that was forked does not have its parent's lock."""
    words = flags(tmp_path / "out", files(tmp_path, ROWS[CLASSIFY], ["train"]))
    with lock_directory(tmp_path / "out"):
        child = os.fork()
        if not child:
            os._exit(train.main(words))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert train.main(words) == 0


def test_the_card_says_what_was_changed_on_the_way(tmp_path, capsys):
    options = {**SAVED, **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    out = run(tmp_path / "out", **options)
    changed = {**options, "learning_rate": 0.01, "max_steps": 2, "resume": "auto"}
    assert train.main(flags(out, changed)) == 2
    assert "learning_rate 0.01, was 0.002. To resume anyway: --allow_changed learning_rate." in capsys.readouterr().err
    run(out, allow_changed="learning_rate", **changed)
    card = (out / "README.md").read_text()
    assert "| 1 | `learning_rate` | 0.002 | 0.01 |" in card and "| 1 | `max_steps` | 1 | 2 |" in card


def test_what_is_allowed_to_change_needs_a_run_to_go_on_with(tmp_path, capsys):
    options = {**files(tmp_path, ROWS[CLASSIFY], ["train"]), "allow_changed": "seed"}
    assert train.main(flags(tmp_path / "out", options)) == 2
    assert "allow_changed: needs --resume auto or --resume_from_checkpoint" in capsys.readouterr().err


def test_a_system_without_locks_is_named(monkeypatch):
    """Windows has no fcntl."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = find_spec("seqblend.data.locks")
    with pytest.raises(ImportError, match="seqblend needs Linux or macOS; on Windows use WSL"):
        spec.loader.exec_module(module_from_spec(spec))
