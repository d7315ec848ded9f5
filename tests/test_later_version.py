"""A repository that a later version of the package saved: it opens with the same outputs, or says why it does not."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import draw, every_config, output_of, padded, tiny_config, tiny_model
from test_trainer import StopAt, rows_for, train
from transformers import AutoConfig, AutoModel, TrainerCallback, pipeline

from seqblend import FAMILIES, BlendEncoderConfig, BlendEncoderForTokenClassification, BlendEncoderModel
from seqblend.checkpoints.loading import load_config
from seqblend.checkpoints.store import write_manifest
from seqblend.data.errors import InputError
from seqblend.version import __version__

LATER = "99.1.0"
# What transformers and other libraries write into a config, or wrote once.
OF_OTHERS = {
    **{"torch_dtype": "float64", "num_labels": 3, "_name_or_path": "x", "temperature": 0.5, "use_cache": False},
    **{"tokenizer_class": "BertTokenizer", "task_specific_params": {}, "sentence_transformers": {"version": "6"}},
}


@pytest.fixture(autouse=True)
def heard(caplog):
    """What is said in the test, although it may have been said before."""
    logging.Logger.warning_once.cache_clear()
    caplog.set_level(logging.WARNING)
    return caplog


def saved(model, directory, version=__version__, **fields):
    """Save a model as a package of that version would have, which has these fields besides."""
    model.save_pretrained(directory)
    make_later(directory, version, **fields)
    return directory


def make_later(directory, version, **fields):
    """Write a version into the code of a saved model, and fields into its config; `a.b` is field b of part a."""
    config = json.loads((directory / "config.json").read_text())
    for name, value in fields.items():
        *parts, last = name.split(".")
        owner = config[parts[0]] if parts else config
        owner[last] = value
    (directory / "config.json").write_text(json.dumps(config))
    for path in directory.glob("*.py"):
        path.write_text(path.read_text().replace(f"of seqblend {__version__}", f"of seqblend {version}"))


def base_of(config_class):
    return tiny_model(FAMILIES[config_class][AutoModel])


@every_config
def test_a_field_of_a_later_version_is_refused(config_class, tmp_path):
    """It was kept as an attribute that nothing reads: other outputs, without a word."""
    model = base_of(config_class)
    parts = {f"{part}.later_of_{part}": 1 for part in config_class.sub_configs}
    directory = saved(model, tmp_path / "later", LATER, qk_norm=False, **parts)
    named = ", ".join(["qk_norm", *parts])
    opens = {
        "AutoConfig": AutoConfig.from_pretrained,
        "AutoModel": AutoModel.from_pretrained,
        "its config": config_class.from_pretrained,
        "its model": type(model).from_pretrained,
        "pipeline": lambda path: pipeline("feature-extraction", model=str(path)),
        "config.json": lambda path: AutoConfig.from_pretrained(path / "config.json"),
    }
    for way, open_in in opens.items():
        with pytest.raises(ValueError, match=rf"later.* seqblend {LATER}.*config\.json: {re.escape(named)}\."):
            pytest.fail(f"{way} opened {open_in(directory)}")
    with pytest.raises(InputError, match=f"model_name_or_path: .*{re.escape(named)}"):
        load_config(str(directory))


def test_an_unknown_field_is_named(heard, tmp_path):
    model = tiny_model(BlendEncoderModel)
    opened = AutoModel.from_pretrained(saved(model, tmp_path, my_note="ours"))
    assert "fields that seqblend" in heard.text and heard.text.count("my_note") == 1
    batch = padded(draw(BlendEncoderModel, [4, 2], labels=False))
    assert torch.equal(output_of(opened, batch), output_of(model, batch))
    opened.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["my_note"] == "ours"


@every_config
def test_a_later_version_without_new_fields_is_named_and_saved_with_the_code_that_ran(config_class, heard, tmp_path):
    directory = saved(base_of(config_class), tmp_path / "later", LATER)
    opened = AutoModel.from_pretrained(directory)
    assert heard.text.count(LATER) == 1 and str(directory) in heard.text
    opened.save_pretrained(tmp_path / "again")
    assert LATER not in "".join(path.read_text() for path in (tmp_path / "again").glob("*.py"))
    heard.clear()
    AutoModel.from_pretrained(tmp_path / "again")
    assert "seqblend" not in heard.text


@pytest.mark.parametrize("version", [__version__, "0.0.1", "unknown"])
@every_config
def test_what_this_package_saved_opens_without_a_word(config_class, version, heard, tmp_path):
    model = base_of(config_class)
    AutoModel.from_pretrained(saved(model, tmp_path, version, **OF_OTHERS))
    assert "seqblend" not in heard.text


def test_a_repository_is_judged_by_its_revision(heard, tmp_path):
    """Its main branch may be of this version, and a revision of a later one."""
    repository = tmp_path / "models--blend--cached"
    for name, version in {"main": __version__, "next": LATER}.items():
        commit = name.encode().hex().ljust(40, "0")
        directory = saved(tiny_model(BlendEncoderForTokenClassification), tmp_path / name, version, qk_norm=True)
        shutil.copytree(directory, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    for open_in in (AutoModel, BlendEncoderModel, BlendEncoderConfig):
        open_in.from_pretrained("blend/cached", cache_dir=tmp_path)
        with pytest.raises(ValueError, match=LATER):
            open_in.from_pretrained("blend/cached", cache_dir=tmp_path, revision="next")


class Later(TrainerCallback):
    """Makes of each checkpoint one of a later version, which has another field."""

    def on_save(self, args, state, control, **kwargs):
        checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
        make_later(checkpoint, LATER, qk_norm=True)
        write_manifest(checkpoint)


def test_a_checkpoint_of_a_later_version_with_other_fields_is_not_resumed(tmp_path):
    model, rows = tiny_model(BlendEncoderForTokenClassification), rows_for(BlendEncoderForTokenClassification, {})
    train(model, rows, tmp_path, callbacks=[StopAt(1), Later()])
    with pytest.raises(InputError, match=rf"resume_from_checkpoint: .*{LATER}.*: qk_norm"):
        train(model, rows, tmp_path, resume=tmp_path / "checkpoint-1")


def test_a_dict_is_looked_at_too(heard):
    config = tiny_config(BlendEncoderConfig).to_dict()
    BlendEncoderConfig.from_dict(dict(config))
    assert "seqblend" not in heard.text
    BlendEncoderConfig.from_dict({**config, "hiden_size": 3})
    assert "hiden_size" in heard.text


def test_the_name_may_be_given_by_its_name(tmp_path):
    """As transformers' own tests and other libraries do; it was called otherwise here, and a TypeError came."""
    model = tiny_model(BlendEncoderModel)
    model.save_pretrained(tmp_path)
    loaded = BlendEncoderModel.from_pretrained(pretrained_model_name_or_path=tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert type(model.config).from_pretrained(pretrained_model_name_or_path=tmp_path).hidden_size > 0
    built = BlendEncoderModel.from_pretrained(
        pretrained_model_name_or_path=None, config=model.config, state_dict=model.state_dict()
    )
    assert built.config.hidden_size == model.config.hidden_size
