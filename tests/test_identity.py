"""A run is resumed from its own checkpoints alone, and whatever is otherwise now is refused or said."""

import json
import math
import multiprocessing
import os
import shutil
import time
from copy import deepcopy
from pathlib import Path
from unittest import mock

import datasets
import pytest
import torch
from conftest import VOCAB, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import collator_of
from test_train_command import TRANSLATE, prepared, write
from transformers import AutoTokenizer, GenerationConfig, Trainer, TrainerCallback, TrainingArguments

from seqblend import BlendDecoderForCausalLM
from seqblend.checkpoints.identity import (
    FREE,
    IDENTITY,
    NOT_RECORDED,
    as_json,
    changes_of,
    read_facts,
    rows_digest,
    table_digest,
    tokenizer_digest,
)
from seqblend.checkpoints.store import newest_good
from seqblend.data.errors import InputError
from seqblend.data.locks import lock_directory
from seqblend.data.streams import RowStream
from seqblend.hub_card.record import RunRecord
from seqblend.tokenization.training import train_tokenizer
from seqblend.training.arguments import BlendTrainingArguments
from seqblend.training.trainer import BlendTrainer

TEXTS = ["abc" * size for size in (3, 1, 5, 2, 4, 2, 6, 1)]
TOKENIZER = train_tokenizer(TEXTS, "char", VOCAB)
SPECIAL = train_tokenizer(TEXTS, "char", VOCAB)
SPECIAL.eos_token = "b"
ROWS = [{"input_ids": ids, "labels": ids} for ids in TOKENIZER(TEXTS)["input_ids"]]
SIZES = {"hidden_dropout": 0.2, "num_hidden_layers": 1}
MODEL = tiny_model(BlendDecoderForCausalLM, **SIZES).float()
OPTIONS = {"max_steps": 4, "per_device_train_batch_size": 2, "save_steps": 1, "learning_rate": 1e-3}
OPTIONS |= {"save_strategy": "steps", "disable_tqdm": True, "use_cpu": True, "report_to": "none"}
FORK = multiprocessing.get_context("fork")


def trainer_for(output_dir, rows=None, model=MODEL, tokenizer=TOKENIZER, **options):
    return BlendTrainer(
        model=deepcopy(model),
        args=BlendTrainingArguments(output_dir=str(output_dir), **{**OPTIONS, **options}),
        train_dataset=datasets.Dataset.from_list(ROWS) if rows is None else rows,
        eval_dataset=datasets.Dataset.from_list(ROWS[:2]),
        processing_class=tokenizer,
        data_collator=collator_of("causal-lm", TOKENIZER),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the checkpoints of four steps."""
    output_dir = tmp_path_factory.mktemp("saved")
    trainer_for(output_dir).train()
    return output_dir


def model_with(**options):
    model = tiny_model(BlendDecoderForCausalLM, **{**SIZES, **options}).float()
    model.load_state_dict(MODEL.state_dict())
    return model


def model_of_labels(*labels):
    return model_with(
        num_labels=len(labels), id2label=dict(enumerate(labels)), label2id={label: n for n, label in enumerate(labels)}
    )


OTHER_ROWS = [{**ROWS[0], "labels": ROWS[0]["labels"][::-1]}, *ROWS[1:]]
REFUSED = {
    "learning_rate 1, was 0.001": {"learning_rate": 1.0},
    "weight_decay 0.5, was 0": {"weight_decay": 0.5},
    "adam_beta2 0.9, was 0.999": {"adam_beta2": 0.9},
    "max_grad_norm 2, was 1": {"max_grad_norm": 2.0},
    "optim adamw_torch, was": {"optim": "adamw_torch"},
    "lr_scheduler_type cosine, was linear": {"lr_scheduler_type": "cosine"},
    "warmup_steps 2, was 0": {"warmup_steps": 2},
    "label_smoothing 0.1, was 0": {"label_smoothing_factor": 0.1},
    "neftune_noise_alpha 5, was None": {"neftune_noise_alpha": 5.0},
    "per_device_train_batch_size 3, was 2": {"per_device_train_batch_size": 3},
    "gradient_accumulation_steps 2, was 1": {"gradient_accumulation_steps": 2},
    "train_sampling_strategy sequential, was random": {"train_sampling_strategy": "sequential"},
    "seed 7, was 42": {"seed": 7},
    "data_seed 7, was None": {"data_seed": 7},
    "bf16 True, was False": {"bf16": True},
    "hidden_dropout 0.1, was 0.2": {"model": model_with(hidden_dropout=0.1)},
    "attention_dropout 0.1, was 0": {"model": model_with(attention_dropout=0.1)},
    "sliding_window 4, was": {"model": model_with(layer_types=["sliding_attention"], sliding_window=4)},
    "num_attention_heads 8, was 4": {"model": model_with(num_attention_heads=8, num_key_value_heads=4, head_dim=4)},
    "id2label[0] b, was LABEL_0": {"model": model_of_labels("b", "a")},
    "train_dataset has other rows": {"rows": datasets.Dataset.from_list(OTHER_ROWS)},
    "or the same rows in another order": {"rows": datasets.Dataset.from_list(ROWS[::-1])},
    "tokenizer is another one": {"tokenizer": train_tokenizer([text[::-1] for text in TEXTS], "byte-bpe", 300)},
}


@pytest.mark.parametrize("words", REFUSED)
def test_another_run_is_refused_and_what_differs_is_named(words, saved):
    before = sorted(path.name for path in saved.rglob("*"))
    with pytest.raises(InputError, match="was written by another run: ") as error:
        trainer_for(saved, **REFUSED[words]).train(True)
    assert words in str(error.value) and "--allow_changed" in str(error.value)
    assert sorted(path.name for path in saved.rglob("*")) == before


SAID = {
    "max_steps 5, was 4": {"max_steps": 5},
    "logging_steps 1, was 500": {"logging_steps": 1},
    "save_steps 2, was 1": {"save_steps": 2},
    "dataloader_num_workers 1, was 0": {"dataloader_num_workers": 1},
    "the run continues in another directory": {},
}


@pytest.mark.parametrize("words", SAID)
def test_what_changes_no_step_is_said(words, saved, tmp_path, caplog):
    trainer = trainer_for(tmp_path, **SAID[words])
    trainer.train(str(saved / "checkpoint-3"))
    assert words in caplog.text
    if words.startswith("logging_steps"):
        assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [4]


def test_the_name_of_a_run_is_the_same_however_long_it_is(saved, tmp_path):
    trainer_for(tmp_path, max_steps=2, logging_steps=3).train()
    trainer_for(tmp_path / "other", max_steps=2, seed=1).train()
    names = [json.loads((place / IDENTITY).read_text())["run"] for place in (saved, tmp_path, tmp_path / "other")]
    assert names[0] == names[1] != names[2]


def test_every_option_is_kept_or_belongs_to_the_place(saved):
    """An option of a later transformers counts as one that decides the steps."""
    names = {name for name, field in BlendTrainingArguments.__dataclass_fields__.items() if field.init}
    assert names - NOT_RECORDED <= set(read_facts(saved / "checkpoint-1"))
    # Of other versions of transformers.
    others = {"activation_checkpointing", "activation_checkpointing_kwargs", "log_on_each_node", "trackio_bucket_id"}
    others |= {"trackio_static_space_id", "debug", "save_on_each_node", "enable_jit_checkpoint"}
    assert (FREE | NOT_RECORDED) - names <= others
    assert not FREE & NOT_RECORDED


def test_facts_are_the_same_in_every_process():
    """A set, as peft's target_modules, has the order of its process; an object has a place in its memory."""
    names = [f"{number}_proj" for number in range(50)]
    assert json.loads(as_json({"kinds": set(names)})) == {"kinds": sorted(names)}
    assert as_json([object(), lambda: 0]) == as_json([object(), lambda: 0])


def test_a_tokenizer_is_the_same_when_it_is_loaded_again(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    loaded(["abc", "a"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(loaded) == tokenizer_digest(TOKENIZER)


def test_training_on_in_the_same_process_or_with_what_was_saved_is_the_same_run(tmp_path):
    """The Trainer sets the special tokens of the config; saving sets its dtype and architectures."""
    trainer = trainer_for(tmp_path, tokenizer=SPECIAL, max_steps=2)
    assert trainer.model.config.eos_token_id != SPECIAL.eos_token_id
    trainer.train()
    trainer.args.max_steps = 3
    trainer.train(True)
    saved_model = BlendDecoderForCausalLM.from_pretrained(tmp_path / "checkpoint-3")
    trainer_for(tmp_path, model=saved_model, tokenizer=SPECIAL).train(True)
    assert (tmp_path / "checkpoint-4").is_dir()


def test_choosing_a_best_model_may_begin_and_end(tmp_path):
    chosen = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    trainer_for(tmp_path, max_steps=1).train()
    trainer_for(tmp_path, max_steps=2, **chosen).train(True)
    trainer_for(tmp_path, max_steps=3).train(True)
    assert (tmp_path / "checkpoint-3").is_dir()


REFERENCES = [{"source": "ab", "target": ["ba", "b a"]}, {"source": "b", "target": ["b"]}]
ROWS_TO_WRITE = [{"source": "ab", "target": "ba"}, {"source": "b", "target": "a b"}]
COMPUTED = {
    "eval_dataset": {"validation_file": [{**REFERENCES[0], "target": ["ba", "bba"]}, REFERENCES[1]]},
    "generation_config": {"generation_config": {"repetition_penalty": 3.0}},
    "bleu_tokenize": {"bleu_tokenize": "char"},
    "generation_config by a flag": {"generation_num_beams": 2},
}


@pytest.mark.parametrize("metric", ["bleu", "loss", None])
@pytest.mark.parametrize("name", COMPUTED)
def test_what_a_metric_is_computed_from_counts_where_the_best_model_is_chosen_by_it(name, metric, tmp_path):
    facts = []
    for number, more in enumerate(({}, {}, COMPUTED[name])):
        options = {"task": TRANSLATE, "train_file": ROWS_TO_WRITE, "validation_file": REFERENCES, **more}
        options = {
            key: write(tmp_path / f"{number}-{key}.jsonl", value) if key.endswith("_file") else value
            for key, value in options.items()
        }
        if "generation_config" in more:
            options["generation_config"] = tmp_path
            GenerationConfig(**more["generation_config"]).save_pretrained(tmp_path)
        # Without an evaluation there is no metric.
        chosen = {"metric_for_best_model": metric, "eval_strategy": "steps" if metric else "no"}
        trainer = prepared(tmp_path / str(number), **options, **chosen).trainer
        facts.append(trainer.collect_facts())
    assert changes_of(facts[0], facts[1]) == []
    counts = metric == "bleu" or (metric is not None and name == "eval_dataset")
    changed = [each.name for each in changes_of(facts[0], facts[2]) if each.name not in FREE]
    assert changed == [name.partition(" ")[0]] * counts


def test_a_choice_that_begins_says_nothing_of_rows_that_are_the_same(tmp_path, caplog):
    chosen = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    trainer_for(tmp_path, max_steps=1).train()
    trainer_for(tmp_path, max_steps=2, **chosen).train(True)
    trainer_for(tmp_path, max_steps=3).train(True)
    assert "metric_for_best_model None, was loss" in caplog.text and "eval_dataset" not in caplog.text


def test_what_a_library_has_besides_is_no_change():
    before = {
        "peft.default": {"r": 8, "alpha": 1},
        "accelerator_config": {"split_batches": False},
        "id2label": {"0": "a"},
    }
    now = {"peft.default": {"r": 8, "new": None}, "accelerator_config": {"split_batches": True, "new": 1}}
    (change,) = changes_of(before, now)
    assert str(change) == "accelerator_config[split_batches] True, was False"
    (change,) = changes_of(before, {"id2label": {"0": "a", "1": None}})
    assert str(change) == "id2label[1] None, was nothing"


def test_rows_of_tensors_are_compared_whole():
    rows = [{"input_ids": torch.arange(5000)}]
    other = [{"input_ids": torch.arange(5000).where(torch.arange(5000) != 2500, 0)}]
    assert rows_digest(rows) == rows_digest([{"input_ids": torch.arange(5000)}]) != rows_digest(other)


# --- What is allowed ---


def test_an_allowed_learning_rate_holds_from_there_on(saved, tmp_path):
    changed = {"learning_rate": 1.0, "weight_decay": 0.5}
    trainer = trainer_for(tmp_path, allow_changed=list(changed), **changed)
    rates = []
    trainer.add_callback(Rates(rates))
    trainer.train(str(saved / "checkpoint-2"))
    # Linearly down to zero at the fourth step.
    assert rates == pytest.approx([0.5, 0.25])
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.5, 0.0}
    (record,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, RunRecord)]
    assert [list(change) for change in record.facts["changes"]] == [
        [2, "learning_rate", 1e-3, 1.0],
        [2, "weight_decay", 0.0, 0.5],
    ]
    # And goes on so, without being allowed again; what was changed stays known.
    again = trainer_for(tmp_path, max_steps=5, **changed)
    again.train(True)
    kept = again.state.stateful_callbacks["RunRecord"]["attributes"]["facts"]["changes"]
    assert [list(change[:2]) for change in kept] == [[2, "learning_rate"], [2, "weight_decay"], [4, "max_steps"]]


class Rates(TrainerCallback):
    """Notes the learning rate of each step."""

    def __init__(self, rates):
        self.rates = rates

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_an_allowed_schedule_is_where_it_would_be(saved, tmp_path):
    changed = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 4}
    trainer = trainer_for(tmp_path, allow_changed=list(changed), **changed)
    rates = []
    trainer.add_callback(Rates(rates))
    trainer.train(str(saved / "checkpoint-1"))
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3])


@pytest.mark.parametrize("checkpoint", ["checkpoint-4", "checkpoint-3"])
def test_a_longer_run_has_its_own_learning_rates_from_the_first_step(checkpoint, saved, tmp_path):
    """The schedule of the checkpoint had ended: linear, at zero."""
    trainer = trainer_for(tmp_path, max_steps=6)
    rates = []
    trainer.add_callback(Rates(rates))
    trainer.train(str(saved / checkpoint))
    assert rates == pytest.approx([0.5e-3, 1e-3 / 3, 1e-3 / 6][-6 + int(checkpoint[-1]) :])


@pytest.mark.parametrize("options", [{"learning_rate": 1.0}, {"lr_scheduler_type": "reduce_lr_on_plateau"}], ids=str)
def test_a_schedule_that_waits_for_a_metric_has_the_allowed_rate(options, tmp_path):
    """Such a schedule does not follow from the steps; what it waited for stays."""
    before = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    if "learning_rate" in options:
        before |= {"lr_scheduler_type": "reduce_lr_on_plateau"}
    trainer_for(tmp_path, max_steps=2, **before).train()
    rates = []
    allowed = [*options, "lr_scheduler_kwargs"]
    trainer = trainer_for(tmp_path, max_steps=3, allow_changed=allowed, **{**before, **options})
    trainer.add_callback(Rates(rates))
    trainer.train(True)
    assert rates == [options.get("learning_rate", 1e-3)]
    assert trainer.lr_scheduler.best < math.inf


def test_a_fact_that_is_none_is_no_allowance(saved):
    with pytest.raises(InputError, match=r"allow_changed: unknown fact of a run 'learning_rat'; .*: learning_rate"):
        trainer_for(saved, allow_changed=["learning_rat"]).train(True)


# --- Several runs in a directory ---


def test_a_run_goes_on_from_its_own_checkpoint_though_another_has_later_ones(saved, tmp_path, caplog):
    output_dir = shutil.copytree(saved, tmp_path / "run")
    rows = datasets.Dataset.from_list(OTHER_ROWS)
    trainer_for(tmp_path / "other", rows).train()
    for step in (1, 2):
        shutil.rmtree(output_dir / f"checkpoint-{step}")
        shutil.copytree(tmp_path / "other" / f"checkpoint-{step}", output_dir / f"checkpoint-{step}")
    resumed = trainer_for(output_dir, rows)
    resumed.train(True)
    whole = trainer_for(tmp_path / "whole", rows)
    whole.train()
    assert "Skipped: " in caplog.text and "checkpoint-4 was written by another run" in caplog.text
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor)


def test_with_both_flags_only_another_run_is_deleted(saved, tmp_path):
    output_dir = shutil.copytree(saved, tmp_path / "run")
    options = {"overwrite_output_dir": True, "max_steps": 5}
    trainer_for(output_dir, **options).train(True)
    assert len(list(output_dir.glob("checkpoint-*"))) == 5
    trainer_for(output_dir, seed=1, **{**options, "max_steps": 1}).train(True)
    assert [path.name for path in output_dir.glob("checkpoint-*")] == ["checkpoint-1"]


def test_a_checkpoint_of_transformers_is_told_to_be_unverified(tmp_path, caplog):
    args = TrainingArguments(output_dir=str(tmp_path), **{**OPTIONS, "max_steps": 1})
    collator = collator_of("causal-lm", TOKENIZER)
    Trainer(model=deepcopy(MODEL), args=args, train_dataset=ROWS, data_collator=collator).train()
    trainer_for(tmp_path).train(True)
    assert (
        "checkpoint-1: not written by this version's Trainer; cannot verify that it is complete and belongs to this"
        in caplog.text
    )


def test_transformers_goes_on_from_ours_and_we_from_that(saved, tmp_path):
    """It keeps the facts of our run, and writes no manifest."""
    output_dir = shutil.copytree(saved, tmp_path / "run")
    args = TrainingArguments(output_dir=str(output_dir), **{**OPTIONS, "max_steps": 5})
    collator = collator_of("causal-lm", TOKENIZER)
    theirs = Trainer(model=deepcopy(MODEL), args=args, train_dataset=ROWS, data_collator=collator)
    theirs.train(resume_from_checkpoint=str(output_dir / "checkpoint-4"))
    assert newest_good(output_dir).endswith("checkpoint-5")


# --- Two at a time ---


def hold(directory, ready, seconds):
    with lock_directory(directory):
        ready.set()
        time.sleep(seconds)


def live(started):
    started.set()
    time.sleep(600)


def test_a_directory_is_one_runs_alone_until_its_process_ends(tmp_path):
    ready = FORK.Event()
    other = FORK.Process(target=hold, args=(tmp_path, ready, 600))
    other.start()
    assert ready.wait(60)
    with pytest.raises(InputError, match=f"output_dir: another process writes to {tmp_path}; wait"):
        trainer_for(tmp_path).train()
    other.kill()
    other.join()
    with lock_directory(tmp_path), lock_directory(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    """As a DataLoader's worker, which lives for seconds after its run was killed."""
    started, ready = FORK.Event(), FORK.Event()
    with lock_directory(tmp_path):
        worker = FORK.Process(target=live, args=(started,))
        worker.start()
        # Only when it runs has it let go of the lock.
        assert started.wait(60)
    other = FORK.Process(target=hold, args=(tmp_path, ready, 0))
    other.start()
    assert ready.wait(60)
    other.join()
    worker.kill()
    worker.join()


def test_who_is_refused_does_not_delete_the_directory_of_the_other(tmp_path):
    """It is empty still, and was made by both."""
    place = tmp_path / "out"

    def make_and_hold():
        never_exists = mock.patch.object(Path, "exists", lambda path: path != place)
        with never_exists, pytest.raises(InputError), lock_directory(place):
            pass
        os._exit(0)

    with lock_directory(place):
        other = FORK.Process(target=make_and_hold)
        other.start()
        other.join()
        assert other.exitcode == 0 and place.is_dir()
    assert not place.exists()


def test_a_directory_that_stays_empty_is_taken_away(tmp_path):
    with lock_directory(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())


# --- Rows ---

TABLES = st.lists(
    st.fixed_dictionaries(
        {
            "a": st.lists(st.integers(0, 9), max_size=3),
            "b": st.text("xyé", max_size=3),
            "c": st.none() | st.floats(0, 1),
        }
    ),
    min_size=1,
    max_size=8,
)
FEATURES = datasets.Features(
    {"a": datasets.List(datasets.Value("int64")), "b": datasets.Value("string"), "c": datasets.Value("float64")}
)


def table(rows):
    return datasets.Dataset.from_list(rows, features=FEATURES)


@given(rows=TABLES, data=st.data())
@settings(max_examples=10)
def test_a_digest_is_of_the_rows_and_not_of_how_they_are_stored(rows, data):
    expected = table_digest(table(rows))
    cut = data.draw(st.integers(1, len(rows)))
    parts = [table(part) for part in (rows[:cut], rows[cut:]) if part]
    assert table_digest(datasets.concatenate_datasets(parts)) == expected
    assert table_digest(table(rows[:1] + rows).select(range(1, len(rows) + 1))) == expected
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = table([rows[index] for index in order])
    assert table_digest(shuffled.select([order.index(index) for index in range(len(rows))])) == expected
    assert (table_digest(shuffled) == expected) == ([rows[index] for index in order] == rows)


# --- Streams ---


def stream_of(sources):
    names = [(f"{number}.jsonl", 1) for number in range(len(sources))]
    blocks = [lambda blocks=blocks: iter([{"input_ids": block} for block in blocks]) for blocks in sources]
    return RowStream(blocks, 0, datasets.Dataset.from_dict({"input_ids": [[1]]}), files=names)


SOURCES = [[[[1], [2]], [[3], [4]]], [[[5], [6]], [[7], [8]]]]


@pytest.mark.parametrize("read", range(1, 9))
def test_a_stream_whose_content_changed_is_not_gone_on_with(read):
    """Whatever had been read of it; what had not been may be other."""
    first = stream_of(SOURCES)
    rows = iter(first)
    seen = [next(rows)["input_ids"][0] for _ in range(read)]
    state = json.loads(json.dumps(first.state_dict()))
    for number in range(1, 9):
        changed = [[[[9] if row == [number] else row for row in block] for block in blocks] for blocks in SOURCES]
        resumed = stream_of(changed)
        resumed.load_state_dict(state)
        # A block is read whole, and its rows change places.
        block = next(block for blocks in SOURCES for block in blocks if [number] in block)
        if any(row[0] in seen for row in block):
            with pytest.raises(InputError, match=r"\.jsonl: has other rows than when this run read it before"):
                list(resumed)
        else:
            rest = [row["input_ids"][0] for row in resumed]
            assert sorted(seen + rest) == sorted(9 if each == number else each for each in range(1, 9))


def test_a_stream_may_change_where_that_is_allowed(tmp_path):
    rows = [stream_of([[[row["input_ids"] for row in each]]]) for each in (ROWS, ROWS[::-1])]
    streams = [each.map(lambda block: {**block, "labels": block["input_ids"]}) for each in rows]
    trainer_for(tmp_path, streams[0], max_steps=2).train()
    with pytest.raises(InputError, match="--allow_changed train_dataset resumes anyway"):
        trainer_for(tmp_path, streams[1], max_steps=3).train(True)
    trainer_for(tmp_path, streams[1], max_steps=3, allow_changed=["train_dataset"]).train(True)


def test_a_stream_that_changes_between_epochs_ends_the_run():
    content = deepcopy(SOURCES)
    stream = stream_of(content)
    list(stream)
    content[1][0][1] = [9]
    stream.set_epoch(1)
    with pytest.raises(InputError, match=r"1\.jsonl: has other rows"):
        list(stream)
