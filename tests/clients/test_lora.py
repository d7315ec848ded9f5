"""seqblend train --lora_rank: trained, saved, resumed, opened, merged, and in the original format."""

import json
import logging
import shutil

import peft
import pytest
import safetensors.torch
import stock
import torch
import transformers
from conftest import WRITER, assert_close, calls_of, forked_processes, run_without_package
from huggingface_hub import HfApi
from test_resume import At, Killed, assert_same, kill
from test_train_command import (
    CASES,
    CLASSIFY,
    ROWS,
    TAG,
    assert_refused,
    files,
    flags,
    from_model,
    plain_cards,  # noqa: F401
    predictions,
    prepared,
    quick_and_quiet,  # noqa: F401
    read,
    run,
)
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from seqblend import FAMILIES, from_original, to_original
from seqblend.checkpoints.identity import facts_of
from seqblend.checkpoints.loading import load_config, load_weights
from seqblend.conversion import ConversionError
from seqblend.data.errors import InputError
from seqblend.hub_card.publish import main as publish
from seqblend.predict import main as predict
from seqblend.tasks.registry import TASKS
from seqblend.train import main
from seqblend.training import defaults
from seqblend.training.adapters import add_lora, load_adapter
from seqblend.training.arguments import BlendTrainingArguments, ModelArguments
from seqblend.training.publisher import check_original
from seqblend.training.run_options import CHECKPOINTING

LORA = {"lora_rank": 4, "learning_rate": 0.05, "max_steps": 4}


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    """The directory of a model of a task, trained for a step."""
    found = {}

    def train(task):
        if task not in found:
            root = tmp_path_factory.mktemp(task)
            found[task] = run(root / "base", task=task, **files(root, ROWS[task], ["train"]))
        return found[task]

    return train


def weights_in(directory):
    return safetensors.torch.load_file(directory / "model.safetensors")


def opened(directory):
    """A saved adapter, in its base model."""
    config = load_config(str(directory))
    model_class = config.architectures[0]
    auto_class = next(auto for auto, each in FAMILIES[type(config)].items() if each.__name__ == model_class)
    return load_adapter(auto_class, str(directory), config).eval()


def answers(directory, place, *given):
    """What seqblend predict says of the test file, without the inputs."""
    out = place / "answers.jsonl"
    assert predict([str(directory), "--input", str(place / "test.jsonl"), "--output", str(out), *given]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


# --- Every task ---


@pytest.mark.parametrize("task, problem_type, rows, figures", CASES.values(), ids=CASES.keys())
def test_every_task_trains_an_adapter(task, problem_type, rows, figures, base_of, tmp_path, caplog):
    """What is evaluated and predicted is the adapted model, and the directory gives the same figures again."""
    base, given = base_of(task), files(tmp_path, rows)
    before = weights_in(base)
    caplog.set_level(logging.INFO)
    out = run(tmp_path / "out", **from_model(base, task=task, problem_type=problem_type, **given, **LORA))
    assert all(tensor.equal(before[name]) for name, tensor in weights_in(base).items())
    assert "parameters, of which" in caplog.text and "LoRA: rank 4, alpha 8, on down_proj, gate_proj" in caplog.text
    names = {path.name for path in out.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= names
    assert not names & {"config.json", "model.safetensors"}
    settings = read(out / "adapter_config.json")
    assert settings["base_model_name_or_path"] == str(base) and settings["revision"] is None
    # Only the head of a language model is neither adapted nor saved.
    saved = safetensors.torch.load_file(out / "adapter_model.safetensors")
    whole = {name.split(".")[2] for name in saved if ".lora_" not in name}
    assert whole == {CLASSIFY: {"score"}, TAG: {"classifier"}}.get(task, set())

    again = run(
        tmp_path / "again", **from_model(out, task=task, **given, do_eval=True, do_predict=True, max_steps=None)
    )
    results = [read(each / "all_results.json") for each in (out, again)]
    assert results[1]["test_loss"] == results[0]["test_loss"] and results[1]["eval_loss"] == results[0]["eval_loss"]
    if TASKS[task].has_answers:
        assert predictions(again) == predictions(out)


@pytest.mark.parametrize("task", [CLASSIFY, TAG, "seq2seq-lm"])
def test_predict_opens_an_adapter(task, base_of, tmp_path):
    out = run(tmp_path / "out", **from_model(base_of(task), task=task, **files(tmp_path, ROWS[task]), **LORA))
    expected = [row["prediction"] for row in predictions(out)]
    assert [row["prediction"] for row in answers(out, tmp_path)] == expected


def test_a_head_of_other_labels_is_of_the_adapter(base_of, tmp_path):
    """The base model has two labels, the adapter three, and one of the two is a new one."""
    rows = [{"text": f"row {index}", "label": "xyz"[index % 3]} for index in range(6)]
    out = run(tmp_path / "out", **from_model(base_of(CLASSIFY), task=CLASSIFY, **files(tmp_path, rows), **LORA))
    assert load_config(str(out)).label2id == {"x": 0, "y": 1, "z": 2}
    assert [row["prediction"] for row in answers(out, tmp_path)] == [row["prediction"] for row in predictions(out)]


# --- With peft alone ---


@pytest.mark.parametrize("task", [CLASSIFY, TAG, "seq2seq-lm", "causal-lm", "masked-lm"])
def test_peft_opens_an_adapter(task, base_of, tmp_path):
    """By PeftModel around a base model with the labels of the adapter; by an AutoPeftModel; by transformers."""
    base = base_of(task)
    out = run(tmp_path / "out", **from_model(base, task=task, **files(tmp_path, ROWS[task]), **LORA))
    expected, auto_class = opened(out), TASKS[task].auto_class
    ours = auto_class.from_pretrained(base, config=AutoConfig.from_pretrained(out / "model_config.json"))
    theirs = [peft.PeftModel.from_pretrained(ours, out).eval()]
    auto_peft = f"AutoPeft{auto_class.__name__.removeprefix('Auto')}"
    if hasattr(peft, auto_peft):
        theirs.append(getattr(peft, auto_peft).from_pretrained(out).eval())
    batch = {"input_ids": torch.tensor([[3, 4, 3, 2]])}
    if expected.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
    with torch.no_grad():
        logits = expected(**batch).logits
        assert all(each(**batch).logits.equal(logits) for each in theirs)
        # transformers finds the base model by itself.
        assert_close(auto_class.from_pretrained(out).eval()(**batch).logits, logits, 1e-6)


def test_a_card_says_what_the_adapter_is_and_its_results(base_of, tmp_path):
    out = run(tmp_path / "out", **from_model(base_of(TAG), task=TAG, **files(tmp_path, ROWS[TAG]), **LORA))
    card = (out / "README.md").read_text()
    figure = read(out / "all_results.json")["test_f1"]
    assert str(tmp_path) not in card and f"| test | F1 of spans | {figure:.4f} |" in card
    assert "A LoRA adapter for BlendEncoderForTokenClassification, rank 4, alpha 8, on down_proj, gate_proj" in card
    assert "Its base model is named in `adapter_config.json`." in card and "library_name: peft" in card


# --- Training ---


def trained(directory, options, callbacks=(), resume=None):
    """A Trainer of the command line, after training."""
    trainer = prepared(directory, **options).trainer
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume)
    return trainer


def test_a_killed_run_ends_as_one_that_is_not(base_of, tmp_path):
    """Its adapter and its optimizer, bit for bit; dropout draws from the same random numbers."""
    options = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY]), **LORA, save_strategy="steps")
    options |= {"save_steps": 1, "per_device_train_batch_size": 2, "max_steps": 5, "lora_target": "q_proj"}
    whole = trained(tmp_path / "whole", options)
    with pytest.raises(Killed):
        trained(tmp_path / "run", options, [At(4, kill)])
    resumed = trained(tmp_path / "run", options | {"resume": "auto"}, resume=True)
    assert resumed.progress.first_step == 3
    assert_same(resumed, whole)


def test_the_default_rate_is_ten_times_that_of_the_width(base_of, tmp_path, monkeypatch):
    options = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY]), **LORA) | {"learning_rate": None}
    monkeypatch.setattr(defaults, "FINE_TUNING", defaults.FINE_TUNING._replace(learning_rate=1e-5, width=32))
    assert prepared(tmp_path / "out", **options).trainer.args.learning_rate == 10 * 1e-5 * 32 / 16


def test_the_best_adapter_is_loaded_at_the_end_and_a_run_stops_early(base_of, tmp_path):
    options = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY]), **LORA) | {"learning_rate": 30}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "early_stopping_patience": 1}
    steps = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 9}
    out = run(tmp_path / "out", **options | best | steps)
    state = read(out / "trainer_state.json")
    assert state["global_step"] < 9 and state["best_global_step"] < state["global_step"]
    saved = [out, out / f"checkpoint-{state['best_global_step']}"]
    adapters = [safetensors.torch.load_file(each / "adapter_model.safetensors") for each in saved]
    assert all(tensor.equal(adapters[1][name]) for name, tensor in adapters[0].items())
    assert read(out / "eval_results.json")["eval_loss"] == state["best_metric"]
    assert not list(out.glob("checkpoint-*/README.md"))


def test_the_mean_of_the_last_adapters(base_of, tmp_path):
    """--average_checkpoints: of adapters, and of a new head that is saved with them."""
    options = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY]), **LORA)
    out = run(tmp_path / "out", **options, save_strategy="steps", save_steps=1, average_checkpoints=3)
    places = [out, *(out / f"checkpoint-{step}" for step in (2, 3, 4))]
    found, *tensors = (safetensors.torch.load_file(each / "adapter_model.safetensors") for each in places)
    assert found.keys() == tensors[0].keys()
    for name, tensor in found.items():
        mean = torch.stack([each[name].double() for each in tensors]).mean(0).to(tensor.dtype)
        assert torch.equal(tensor, mean), name
    assert any(not torch.equal(found[name], tensors[-1][name]) for name in found)


@pytest.mark.parametrize("task", [CLASSIFY, "causal-lm", "seq2seq-lm"])
def test_accumulated_batches_have_the_gradients_of_whole_ones(task, base_of, tmp_path):
    """Texts of several lengths: a mean of means would be another one."""
    overrides = "hidden_dropout=0,attention_dropout=0" + ",classifier_dropout=0" * (task == CLASSIFY)
    options = from_model(base_of(task), task=task, **files(tmp_path, ROWS[task]), config_overrides=overrides)
    options |= {"lora_rank": 2, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0, "pack_documents": None}
    options["warmup_steps"] = 0
    if task == "causal-lm":
        options["pack_documents"] = True
    batches = {"one": (4, 1), "four": (1, 4)}
    models = []
    for name, (size, steps) in batches.items():
        given = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        models.append(trained(tmp_path / name, options | given).model)
    moved = 0.0
    for (name, one), four in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        one, four = one.detach(), four.detach()
        assert (one - four).abs().max() <= 1e-5 * max(1.0, float(one.abs().max())), name
        moved += float(one.abs().sum()) if "lora_B" in name else 0.0
    assert moved > 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_nothing(reentrant, base_of, tmp_path):
    options = from_model(base_of(TAG), task=TAG, **files(tmp_path, ROWS[TAG]), **LORA)
    kwargs = json.dumps({"use_reentrant": reentrant})
    plain = trained(tmp_path / "plain", options).model.state_dict()
    saving = {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": kwargs}
    other = trained(tmp_path / "saving", options | saving).model.state_dict()
    for name, tensor in plain.items():
        assert_close(other[name], tensor, 1e-5, what=name) if tensor.numel() > 1 and tensor.std() else None
        assert "lora_B" not in name or tensor.any()


@pytest.mark.parametrize("noise", [None, 5.0])
def test_batches_stay_flat(noise, base_of, tmp_path):
    """No hook of peft, and not that of NEFTune, makes the layers read padding."""
    options = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY]), **LORA, neftune_noise_alpha=noise)
    job = prepared(tmp_path / "out", **options)
    widths = {len(row["input_ids"]) for row in job.splits["train"].features}
    assert len(widths) > 1, "no row is padded"
    mlp = job.trainer.model.get_base_model().model.layers[0].mlp
    with calls_of(mlp) as calls:
        job.trainer.train()
    total = sum(len(row["input_ids"]) for row in job.splits["train"].features)
    assert {tuple(call.args[0].shape[:2]) for call in calls} == {(1, total)}


def test_names_of_layers_and_the_scale(base_of, tmp_path):
    options = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY])) | {"lora_rank": 2, "lora_alpha": 3}
    model = prepared(tmp_path / "out", **options, lora_target="v_proj").trainer.model
    adapted = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert adapted == {"base_model.model.model.layers.0.self_attn.v_proj"}
    assert model.get_base_model().model.layers[0].self_attn.v_proj.scaling == {"default": 1.5}


# --- Merged ---


@pytest.mark.parametrize("task", [CLASSIFY, TAG, "seq2seq-lm", "causal-lm"])
def test_a_merged_model_equals_the_adapter(task, base_of, tmp_path):
    """Its figures are those of what is saved; checkpoints are adapters; a later run can go on from it."""
    options = from_model(base_of(task), task=task, **files(tmp_path, ROWS[task]), **LORA, save_strategy="steps")
    out = run(tmp_path / "out", **options, merge_adapter=True)
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "config.json"} <= names and not [name for name in names if name.startswith("adapter")]
    assert (out / "checkpoint-4" / "adapter_model.safetensors").exists()
    merged = TASKS[task].auto_class.from_pretrained(out).eval()
    apart, batch = opened(out / "checkpoint-4"), {"input_ids": torch.tensor([[3, 4, 3, 2]])}
    if merged.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
        assert merged.generation_config.max_length == apart.generation_config.max_length
    with torch.no_grad():
        assert_close(merged(**batch).logits, apart(**batch).logits, 1e-5)
    again = run(tmp_path / "again", **from_model(out, task=task, **files(tmp_path, ROWS[task]), do_eval=True))
    assert read(again / "eval_results.json")["eval_loss"] == read(out / "eval_results.json")["eval_loss"]


def test_the_parameters_of_a_merged_model_are_its_own(base_of, tmp_path):
    options = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY], ["train"]), **LORA)
    out = run(tmp_path / "out", **options, merge_adapter=True)
    assert read(out / "run_results.json")["parameters"] == read(base_of(CLASSIFY) / "run_results.json")["parameters"]


def test_an_adapter_generates_with_the_settings_of_the_run(base_of, tmp_path):
    """In evaluations during training, too: peft's class for sequence-to-sequence hands none on to the model."""
    task = "seq2seq-lm"
    letters = AutoTokenizer.from_pretrained(base_of(task)).convert_tokens_to_ids(["a", "b"])
    rates, answers = [], []
    for name, own in {"letters": {}, "none": {"suppress_tokens": letters}}.items():
        GenerationConfig(min_new_tokens=3, max_new_tokens=5, **own).save_pretrained(tmp_path / name / "settings")
        options = from_model(base_of(task), task=task, **files(tmp_path / name, ROWS[task]), **LORA)
        options |= {"generation_config": tmp_path / name / "settings", "eval_strategy": "epoch"}
        out = run(tmp_path / name / "out", **options)
        history = read(out / "trainer_state.json")["log_history"]
        rates.append([each["eval_character_error_rate"] for each in history if "eval_chrf" in each])
        answers.append("".join(row["prediction"] for row in predictions(out)))
    assert answers[0] and not answers[1]
    assert set(rates[1]) == {1.0} != set(rates[0])


def test_a_merged_model_is_a_whole_repository_and_an_adapter_is_none(base_of, tmp_path, caplog):
    options = from_model(base_of(TAG), task=TAG, **files(tmp_path, ROWS[TAG], ["train"]), **LORA)
    names = {merges: run(tmp_path / str(merges), **options, merge_adapter=merges) for merges in (True, False)}
    with forked_processes():
        assert publish([str(names[True]), "--repo_id", "someone/tagger", "--dry_run"]) == 0
    assert publish([str(names[False]), "--repo_id", "someone/tagger", "--dry_run"]) != 0


def test_merging_when_a_run_is_resumed_replaces_the_adapter(base_of, tmp_path):
    """transformers would load an adapter beside the merged weights into them."""
    options = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY]), **LORA, save_strategy="steps")
    out = run(tmp_path / "out", **options)
    expected = predictions(out)
    assert run(out, **options, resume="auto", merge_adapter=True)
    assert not list(out.glob("adapter*")) and not (out / "model_config.json").exists()
    assert [row["prediction"] for row in predictions(out)] == [row["prediction"] for row in expected]
    assert main(flags(out, options | {"resume": "auto"})) == 2, "an adapter beside the whole model"


def test_a_new_run_deletes_an_adapter(base_of, tmp_path, capsys):
    options = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY]), **LORA)
    out = run(tmp_path / "out", **options)
    assert main(flags(out, options)) == 2
    assert "holds a run already (train_results.json" in capsys.readouterr().err
    run(out, **options, overwrite_output_dir=True, merge_adapter=True)
    assert not list(out.glob("adapter*"))


# --- Checkpoints of other architectures ---


def adopted(model_type, head, directory, rank=3, **options):
    """A converted stock model with an adapter in which nothing is zero; a batch; and the Auto class."""
    stock.stock_model(model_type, head, **options).save_pretrained(directory / "source")
    auto_class = stock.auto(head)
    model = from_original(directory / "source", auto_class)
    arguments = ModelArguments(model_name_or_path=str(directory / "source"), lora_rank=rank)
    model = add_lora(model, arguments, auto_class, set()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.2)
    return model, stock.padded(stock.rows(model_type, head)), auto_class


SEQUENCE, TOKENS = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"
# Fused layers, transposed ones, hidden layers of heads in all their places.
KINDS = [
    *((name, SEQUENCE) for name in ("bert", "roberta", "distilbert", "modernbert", "gpt2", "llama", "bart")),
    *((name, TOKENS) for name in ("bert", "modernbert", "llama")),
    *((name, "AutoModelForMaskedLM") for name in ("bert", "roberta", "modernbert")),
    *((name, "AutoModelForCausalLM") for name in ("gpt2", "openai-gpt", "qwen3", "gemma3_text")),
    *((name, "AutoModelForSeq2SeqLM") for name in ("bart", "marian")),
]


@pytest.mark.parametrize("model_type, head", KINDS)
@torch.no_grad()
def test_an_adapter_of_an_adopted_model_is_opened_on_the_original(model_type, head, tmp_path):
    """The hidden layer of a classifier is trained whole; what its checkpoint has of another head is not."""
    model, batch, auto_class = adopted(model_type, head, tmp_path)
    model.save_pretrained(tmp_path / "adapter")
    expected = stock.outputs(model, batch)
    assert_close(stock.outputs(opened(tmp_path / "adapter"), batch), expected, 0.0)
    to_original(model, tmp_path / "whole")
    merged = model.merge_and_unload()
    to_original(merged, tmp_path / "whole")
    assert not [path.name for path in (tmp_path / "whole").iterdir() if path.name.startswith(("adapter", "README"))]
    theirs = auto_class.from_pretrained(tmp_path / "whole").eval()
    assert_close(stock.outputs(theirs, batch), expected, 1e-4, what="merged")


PLAIN = """
import json
import peft, torch, transformers

torch.set_num_threads(1)
for auto_class, base, adapter in json.load(sys.stdin):
    model = getattr(transformers, auto_class).from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).eval()
    batch, expected, real = torch.load(adapter + "/expected.pt")
    with torch.no_grad():
        logits = model(**batch).logits
    logits = logits if real is None else logits[real]
    # Stock rotary positions and sinusoids are computed in float32.
    assert (logits - expected).abs().max() <= 1e-5 * expected.std(), base
    print("equal", base)
"""


def test_plain_peft_opens_it_in_a_process_that_knows_no_package(tmp_path):
    places = []
    for model_type, head in KINDS:
        place = tmp_path / f"{model_type}-{head}"
        model, batch, _ = adopted(model_type, head, place)
        to_original(model, place / "adapter")
        with torch.no_grad():
            expected = stock.outputs(model, batch)
        real = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
        torch.save((batch, expected, None if head == SEQUENCE else real), place / "adapter" / "expected.pt")
        places.append((head, str(place / "source"), str(place / "adapter")))
    done = run_without_package(PLAIN, places, tmp_path)
    assert done.stdout.count("equal") == len(KINDS)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@torch.no_grad()
def test_the_code_on_the_card_opens_an_adapter_with_its_labels(model_type, tmp_path, monkeypatch, caplog):
    """The checkpoint has none, and GPT-2 no padding token."""
    padding = {"pad_token_id": None} if model_type == "gpt2" else {}
    stock.stock_model(model_type, "AutoModel", num_labels=2, **padding).save_pretrained(tmp_path / "source")
    labels = {0: "no", 1: "yes", 2: "`maybe`"}
    auto_class = stock.auto(SEQUENCE)
    model = from_original(tmp_path / "source", auto_class, id2label=labels, label2id={v: k for k, v in labels.items()})
    model.config.pad_token_id = stock.PAD
    arguments = ModelArguments(model_name_or_path=str(tmp_path / "source"), lora_rank=2)
    model = add_lora(model, arguments, auto_class, {"score.weight"}).eval()
    for parameter in model.parameters():
        parameter.normal_(0, 0.2) if parameter.requires_grad else None
    caplog.clear()
    to_original(model, tmp_path / "adapter")
    assert "newly initialized" not in caplog.text
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert str(tmp_path) not in card
    monkeypatch.chdir(tmp_path / "adapter")
    opened = {}
    exec(card.split("```python\n")[1].split("\n```\n")[0], opened)
    batch = stock.padded(stock.rows(model_type, SEQUENCE))
    assert opened["model"].config.id2label == labels
    assert_close(stock.outputs(opened["model"].eval(), batch), stock.outputs(model, batch), 1e-5)
    (tmp_path / "adapter" / "README.md").write_text("# Mine\n")
    to_original(model, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "README.md").read_text() == "# Mine\n"


def test_some_parts_of_a_fused_layer_are_adapted(tmp_path):
    """The others have zeros in matrix B; parts of several ranks and scales stand beside each other."""
    stock.stock_model("gpt2", "AutoModelForCausalLM").save_pretrained(tmp_path / "source")
    base = from_original(tmp_path / "source", transformers.AutoModelForCausalLM)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        lora_alpha=3,
        target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"v_proj": 5},
        alpha_pattern={"v_proj": 1},
        init_lora_weights=False,
    )
    base.name_or_path = str(tmp_path / "source")
    model = peft.get_peft_model(base, config).eval()
    to_original(model, tmp_path / "adapter")
    saved = safetensors.torch.load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = "base_model.model.transformer.h.0.attn.c_attn"
    assert saved[f"{name}.lora_A.weight"].shape == (7, 32) and saved[f"{name}.lora_B.weight"].shape == (96, 7)
    assert not saved[f"{name}.lora_B.weight"][32:64].any()
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "source")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter", autocast_adapter_dtype=False).eval()
    batch = stock.padded(stock.rows("gpt2", "AutoModelForCausalLM"))
    with torch.no_grad():
        assert_close(stock.outputs(theirs, batch), stock.outputs(model, batch), 1e-6)


def test_what_the_original_format_cannot_say_is_refused(tmp_path):
    """Nothing is written, and the line names what to do."""

    def refused(model, words):
        with pytest.raises(ConversionError, match=words) as refusal:
            to_original(model, tmp_path / "out")
        assert "--merge_adapter true" in str(refusal.value) and "\n" not in str(refusal.value)
        assert not (tmp_path / "out").exists()

    model, *_ = adopted("bert", SEQUENCE, tmp_path / "bert")
    model.peft_config["default"].use_dora = True
    refused(model, "use_dora=True")
    model.peft_config["default"].use_dora = False
    model.config.hidden_act = "relu"
    refused(model, "hidden_act was 'gelu' at the conversion and is 'relu' now")
    model.config.hidden_act = "gelu"
    with torch.no_grad():
        model.get_base_model().model.layers[1].mlp.up_proj.base_layer.weight[0] += 1
    refused(model, r"model\.layers\.1\.mlp\.up_proj\.weight differs from that in")
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "nowhere")
    refused(model, "must be the original checkpoint")
    ours, _, auto_class = adopted("bert", SEQUENCE, tmp_path / "ours")
    ours.merge_and_unload().save_pretrained(tmp_path / "saved")
    base = auto_class.from_pretrained(tmp_path / "saved")
    arguments = ModelArguments(model_name_or_path=str(tmp_path / "saved"), lora_rank=2)
    refused(add_lora(base, arguments, auto_class, set()), "already a model of seqblend")


def test_of_several_adapters_none_is_converted(tmp_path):
    model, *_ = adopted("bert", SEQUENCE, tmp_path)
    model.add_adapter("second", model.peft_config["default"])
    with pytest.raises(
        ConversionError, match=r"several adapters \(default, second\); keep only the one named default"
    ):
        to_original(model, tmp_path / "out")
    model.delete_adapter("default")
    with pytest.raises(ConversionError, match="the adapter is named second; name it default"):
        to_original(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_some_layers_alone_are_adapted(tmp_path):
    """Also in the original, and when it is opened again."""
    path, auto_class = str(tmp_path / "source"), stock.auto(SEQUENCE)
    stock.stock_model("bert", SEQUENCE).save_pretrained(path)
    base = from_original(path, auto_class)
    base.name_or_path = path
    settings = {"target_modules": ["q_proj"], "layers_to_transform": [1], "init_lora_weights": False}
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", **settings)).eval()
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    base.config.architectures = [type(base).__name__]
    base.config.to_json_file(tmp_path / "adapter" / "model_config.json")
    batch = stock.padded(stock.rows("bert", SEQUENCE))
    to_original(model, tmp_path / "original")
    theirs = peft.PeftModel.from_pretrained(auto_class.from_pretrained(path), tmp_path / "original").eval()
    with torch.no_grad():
        expected = stock.outputs(model, batch)
        assert_close(stock.outputs(opened(tmp_path / "adapter"), batch), expected, 0.0)
        assert_close(stock.outputs(theirs, batch), expected, 1e-5)


def test_an_adapter_is_not_written_over_a_model(tmp_path):
    model, *_ = adopted("bert", SEQUENCE, tmp_path)
    with pytest.raises(ConversionError, match="holds a whole model"):
        to_original(model, tmp_path / "source")


# --- Heads that the checkpoint does not have ---


def with_lora(path, auto_class):
    """A checkpoint as training loads it, with an adapter of rank 2."""
    model, info = load_weights(auto_class, path, load_config(path, auto_class=auto_class))
    arguments = ModelArguments(model_name_or_path=path, lora_rank=2)
    return add_lora(model, arguments, auto_class, {*info["missing_keys"]})


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_masked_language_model_trains_a_new_head_and_keeps_one_that_it_has(model_type, tmp_path):
    head = "AutoModelForMaskedLM"
    stock.stock_model(model_type, "AutoModel").save_pretrained(tmp_path / "bare")
    new = with_lora(str(tmp_path / "bare"), stock.auto(head))
    new.save_pretrained(tmp_path / "adapter")
    batch = stock.padded(stock.rows(model_type, head))
    with torch.no_grad():
        assert_close(stock.outputs(opened(tmp_path / "adapter"), batch), stock.outputs(new.eval(), batch), 0.0)
    old, *_ = adopted(model_type, head, tmp_path)
    trained_parts = [
        {name.split(".")[2] for name, each in model.named_parameters() if each.requires_grad} for model in (new, old)
    ]
    assert trained_parts == [{"model", "head"}, {"model"}]


def test_a_random_head_of_the_base_model_is_refused(tmp_path):
    """The adapter does not have it either, because peft trained it alone."""
    path, auto_class = str(tmp_path / "bare"), transformers.AutoModelForMaskedLM
    stock.stock_model("bert", "AutoModel").save_pretrained(path)
    model, _ = load_weights(auto_class, path, load_config(path, auto_class=auto_class))
    model.name_or_path = path
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    model.config.to_json_file(tmp_path / "adapter" / "model_config.json")
    with pytest.raises(InputError, match=r"head\.dense\.bias.* are neither in the adapter nor in its base"):
        load_adapter(auto_class, str(tmp_path / "adapter"), load_config(str(tmp_path / "adapter")))


def test_a_random_lm_head_is_refused(tmp_path):
    """It would be another one wherever the adapter is opened."""
    options = {"tie_word_embeddings": False}
    stock.stock_model("llama", "AutoModel", **options).save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match="bare has no lm_head, which would stay random"):
        with_lora(str(tmp_path / "bare"), transformers.AutoModelForCausalLM)


# --- What is refused ---

REFUSED = [
    ({"lora_rank": 0}, ["lora_rank", "1 or more"]),
    ({"lora_alpha": "nan"}, ["lora_alpha", "above 0"]),
    ({"lora_target": "qproj"}, ["lora_target", "q_proj", "all-linear"]),
    ({"lora_target": "score"}, ["lora_target", "down_proj"]),
    ({"lora_target": "embed_tokens"}, ["lora_target"]),
    ({"do_eval": True}, ["lora_rank", "nothing is trained"]),
]


@pytest.mark.parametrize("options, words", REFUSED, ids=lambda value: str(value)[:30])
def test_options_that_do_not_fit(options, words, base_of, tmp_path, capsys):
    given = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY]), **LORA) | options
    assert_refused(tmp_path, given, words, capsys)


def broken(directory, name, change):
    """Change an adapter's settings or tensors."""
    path = directory / name
    if path.suffix == ".json":
        path.write_text(json.dumps(read(path) | change))
    else:
        tensors = safetensors.torch.load_file(path)
        safetensors.torch.save_file({key: tensor for key, tensor in tensors.items() if change not in key}, path)


SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DAMAGES = {
    "base": (SETTINGS, {"base_model_name_or_path": "nowhere/at/all"}, ["base_model_name_or_path", "nowhere/at/all"]),
    "no base": (SETTINGS, {"base_model_name_or_path": None}, ["names no base model"]),
    "kind": (SETTINGS, {"peft_type": "IA3"}, ["the type IA3", "only LORA"]),
    "import": (SETTINGS, {"megatron_config": {"a": 1}}, ["megatron_config"]),
    "package": (SETTINGS, {"megatron_core": "os"}, ["megatron_core='os'", "open the adapter with peft"]),
    "setting": (SETTINGS, {"use_dora": True}, ["use_dora=True"]),
    "start": (SETTINGS, {"init_lora_weights": "pissa"}, ["init_lora_weights='pissa'"]),
    "rank": (SETTINGS, {"r": 3}, ["does not match the model", "size mismatch"]),
    "target": (SETTINGS, {"target_modules": ["c_attn"]}, ["does not fit its base model"]),
    "fewer": (SETTINGS, {"target_modules": ["q_proj"]}, ["does not fit its base model"]),
    "a layer": (WEIGHTS, "q_proj", ["does not fit its base model", "q_proj"]),
    "the head": (WEIGHTS, "score", ["does not fit its base model", "score"]),
}


@pytest.mark.parametrize("name, change, words", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_adapter_is_refused_in_one_line(name, change, words, adapter, tmp_path, capsys):
    shutil.copytree(adapter, tmp_path / "damaged")
    broken(tmp_path / "damaged", name, change)
    (tmp_path / "in.txt").write_text("a\n")
    assert predict([str(tmp_path / "damaged"), "--input", str(tmp_path / "in.txt")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line


@pytest.mark.parametrize("name", [SETTINGS, WEIGHTS, "model_config.json"])
def test_an_adapter_without_one_of_its_files_is_refused(name, adapter, tmp_path, capsys):
    shutil.copytree(adapter, tmp_path / "damaged")
    (tmp_path / "damaged" / name).unlink()
    (tmp_path / "in.txt").write_text("a\n")
    assert predict([str(tmp_path / "damaged"), "--input", str(tmp_path / "in.txt")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture(scope="module")
def adapter(base_of, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapter")
    return run(root / "out", **from_model(base_of(CLASSIFY), **files(root, ROWS[CLASSIFY], ["train"]), **LORA))


def test_training_does_not_start_from_an_adapter(adapter, tmp_path, capsys):
    given = from_model(adapter, **files(tmp_path, ROWS[CLASSIFY]))
    assert_refused(
        tmp_path, given, ["is an adapter, from which training cannot start", "--merge_adapter true"], capsys
    )


def test_another_rank_is_another_run(base_of, tmp_path, capsys):
    options = from_model(base_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY], ["train"]), **LORA)
    out = run(tmp_path / "out", **options | {"save_strategy": "steps"})
    capsys.readouterr()
    assert main(flags(out, options | {"lora_rank": 2, "resume": "auto"})) == 2
    assert "was written by another run" in capsys.readouterr().err


# --- The Hub ---


def test_the_base_model_is_that_of_the_commit_that_was_adapted(hub, base_of, tmp_path):
    """And a merged model is pushed as any other, at the end alone."""
    api = HfApi(endpoint=hub.endpoint, token=WRITER)
    api.create_repo("someone/base")
    base = base_of(CLASSIFY)
    commit = api.upload_folder(repo_id="someone/base", folder_path=base, allow_patterns=["*.json", "*.safetensors"])
    options = from_model("someone/base", **files(tmp_path, ROWS[CLASSIFY]), **LORA)
    out = run(tmp_path / "out", **options)
    settings = read(out / "adapter_config.json")
    assert settings["base_model_name_or_path"] == "someone/base" and settings["revision"] == commit.oid
    card = (out / "README.md").read_text()
    assert "base_model: someone/base" in card and "Its base model is someone/base." in card

    changed = {name: tensor + 1 for name, tensor in weights_in(base).items()}
    safetensors.torch.save_file(changed, tmp_path / "model.safetensors", {"format": "pt"})
    api.upload_file(
        repo_id="someone/base", path_or_fileobj=tmp_path / "model.safetensors", path_in_repo="model.safetensors"
    )
    assert [row["prediction"] for row in answers(out, tmp_path)] == [row["prediction"] for row in predictions(out)]
    own = {name.replace(".base_layer", ""): tensor for name, tensor in opened(out).state_dict().items()}
    assert own["model.layers.0.mlp.up_proj.weight"].equal(weights_in(base)["model.layers.0.mlp.up_proj.weight"])


def test_a_merged_model_is_pushed(hub, base_of, tmp_path, monkeypatch):
    """At the end alone: a checkpoint is an adapter."""
    monkeypatch.setattr("seqblend.hub_card.publish.verify_isolated", lambda *args: None)
    options = from_model(base_of(TAG), task=TAG, **files(tmp_path, ROWS[TAG], ["train"]), **LORA)
    pushed = {"push_to_hub": True, "hub_model_id": "someone/tagger", "save_strategy": "steps", "save_steps": 1}
    run(tmp_path / "out", **options, **pushed, merge_adapter=True)
    api = HfApi(endpoint=hub.endpoint, token=WRITER)
    names = api.list_repo_files("someone/tagger")
    assert {"model.safetensors", "README.md"} <= {*names} and not [name for name in names if "adapter" in name]
    assert len([each for each in api.list_repo_commits("someone/tagger") if "checkpoint" in each.title]) == 0
    assert "End of training" in [each.title for each in api.list_repo_commits("someone/tagger")]


# --- What an adapter must keep, and what is refused before its training ---


def test_an_adapter_keeps_the_settings_of_generation(tmp_path):
    """Those of the run and of the checkpoint; without them a text would be cut at the default length."""
    stock.stock_model("bart", "AutoModelForSeq2SeqLM", torch.float32).save_pretrained(tmp_path / "base")
    model = from_original(tmp_path / "base", transformers.AutoModelForSeq2SeqLM)
    model.generation_config.max_length, model.generation_config.num_beams = 65, 4
    arguments = ModelArguments(model_name_or_path=str(tmp_path / "base"), lora_rank=2)
    adapted = add_lora(model, arguments, transformers.AutoModelForSeq2SeqLM, set())
    adapted.save_pretrained(tmp_path / "adapter")
    config = load_config(str(tmp_path / "adapter"))
    opened = load_adapter(transformers.AutoModelForSeq2SeqLM, str(tmp_path / "adapter"), config)
    assert (opened.generation_config.max_length, opened.generation_config.num_beams) == (65, 4)
    assert opened.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_an_adapter_that_cannot_be_converted_back_is_refused_before_its_training(tmp_path):
    stock.stock_model("bert", "AutoModel", torch.float32).save_pretrained(tmp_path / "base")
    head = transformers.AutoModelForSequenceClassification
    model = from_original(tmp_path / "base", head, norm_eps=1e-3)
    arguments = ModelArguments(model_name_or_path=str(tmp_path / "base"), lora_rank=2)
    adapted = add_lora(model, arguments, head, {"score.weight", "score.bias"})
    args = BlendTrainingArguments(str(tmp_path / "out"), save_original=True)
    with pytest.raises(InputError, match="save_original: norm_eps was"):
        check_original(args, arguments, adapted, None)


def test_a_run_is_not_resumed_on_another_base_model(tmp_path):
    """Checkpoints hold only the adapter, which would fit."""
    stock.stock_model("bert", "AutoModel", torch.float32).save_pretrained(tmp_path / "base")
    head = transformers.AutoModelForSequenceClassification
    facts = []
    for change in (0.0, 0.0, 1e-3):
        model = from_original(tmp_path / "base", head)
        model.model.layers[0].mlp.up_proj.weight.data += change
        arguments = ModelArguments(model_name_or_path=str(tmp_path / "base"), lora_rank=2)
        adapted = add_lora(model, arguments, head, {"score.weight", "score.bias"})
        facts.append(facts_of(adapted, BlendTrainingArguments(str(tmp_path / "out")))["base_weights"])
    assert facts[0] == facts[1] != facts[2]
