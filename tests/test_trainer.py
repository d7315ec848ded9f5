"""Through the Trainer: gradients and losses are right, a run resumes exactly, the best model comes back."""

import itertools
import json
import math
from copy import deepcopy
from functools import partial
from pathlib import Path

import datasets
import pytest
import reference
import safetensors.torch
import torch
from conftest import (
    HEADS,
    LABELS,
    VOCAB,
    assert_close,
    draw,
    every_head,
    fill,
    named,
    padded,
    run_without_package,
    tiny_config,
    tiny_model,
)
from rows import collator_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import IterableDataset
from transformers import Seq2SeqTrainingArguments, Trainer, TrainerCallback, TrainingArguments

from seqblend import (
    BlendDecoderForCausalLM,
    BlendEncoderDecoderConfig,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForMaskedLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderForTokenClassification,
)
from seqblend.checkpoints.store import write_manifest
from seqblend.data.errors import InputError
from seqblend.tokenization.training import train_tokenizer
from seqblend.training.arguments import BlendTrainingArguments
from seqblend.training.trainer import BlendTrainer

LENGTHS = [3, 9, 5, 1, 7, 2, 8, 4]
END = torch.tensor([2])
SMOOTHED, WEIGHTED = {"label_smoothing": 0.2}, {"class_weights": [0.5, 2.0, 3.0]}
PROBLEMS = [
    {"problem_type": "single_label_classification"},
    {"problem_type": "multi_label_classification"},
    {"problem_type": "regression", "num_labels": 1},
    {"problem_type": "regression", "num_labels": 3},
]
TRAINERS = {"ours": partial(BlendTrainer, scorers={}), "transformers": Trainer}
# By whom, in batches of how many, accumulated over how many: one half or the other by turns.
OTHER_STEPS = [
    [("ours", 2, 4), ("transformers", 8, 1)],
    [("ours", 3, 3), ("transformers", 2, 4)],
]


def problems(head):
    """The options that say which loss a head has: for sequences, one for each problem type."""
    return PROBLEMS if "SequenceClassification" in head.__name__ else [{}]


def losses(head, problem):
    """What changes the loss of a head, on and off: label smoothing, and class weights where there are any."""
    weighs = "Classification" in head.__name__ and problem.get("problem_type") != "regression"
    return [{**smooth, **weigh} for weigh in ([{}, WEIGHTED] if weighs else [{}]) for smooth in ({}, SMOOTHED)]


# Of each kind of head, and of labels, one.
KINDS = [head for head in HEADS if head.__name__.startswith("BlendEncoderFor") or head.__name__.endswith("LM")]
PROBLEMS_OF_HEADS = [(head, problem) for head in HEADS for problem in problems(head)]
# With nothing that changes the loss and with everything; test_losses.py has all between.
TRAINED = [(head, {**problem, **losses(head, problem)[i]}) for head, problem in PROBLEMS_OF_HEADS for i in (0, -1)]
# Nothing of it acts in evaluation.
EVALUATED = TRAINED[1::2]


def arguments(output_dir, **options):
    settings = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "max_grad_norm": 0.0, "seed": 3}
    return Seq2SeqTrainingArguments(output_dir=str(output_dir), **{**settings, **options})


def rows_for(head, options, lengths=LENGTHS):
    """Rows with uneven lengths, and labels of the kind that the problem type has."""
    rows = draw(head, lengths)
    for row in rows:
        if options.get("problem_type") == "multi_label_classification":
            row["labels"] = torch.randint(2, (LABELS,)).double()
        elif options.get("problem_type") == "regression":
            row["labels"] = torch.randn(options["num_labels"], dtype=torch.double)
    return rows


def collate(rows):
    """A padded batch. The decoder's inputs are left for the model to make from the labels."""
    rows = [{name: value for name, value in row.items() if name != "decoder_input_ids"} for row in rows]
    batch = padded([{**row, "labels": row["labels"].long()} for row in rows])
    if rows[0]["labels"].is_floating_point():
        batch["labels"] = torch.stack([row["labels"] for row in rows])
    return batch


@torch.no_grad()
def one_by_one(model, rows):
    """The logits (N, C) of each row on its own, and what they are to tell."""
    model, outputs, targets = model.eval(), [], []
    for row in rows:
        inputs = {name: value[None] for name, value in row.items() if name != "labels"}
        logits, labels = model(**inputs).logits[0], row["labels"]
        if isinstance(model, BlendDecoderForCausalLM):
            logits, labels = logits[:-1], labels[1:]
        outputs.append(logits.reshape(-1, logits.shape[-1]))
        targets.append(labels[None] if logits.dim() == 1 else labels)
    return torch.cat(outputs), torch.cat(targets)


def loss_by_hand(config, logits, targets, training, items=None):
    if config.problem_type == "regression":
        return reference.squared_error(logits, targets, items)
    acting = {"smoothing": config.label_smoothing, "weights": getattr(config, "class_weights", None)}
    if not training:
        acting = {}
    if config.problem_type == "multi_label_classification":
        return reference.binary_cross_entropy(logits, targets, items=items, **acting)
    return reference.cross_entropy(logits, targets, items=items, **acting)


class Gradients(TrainerCallback):
    """Takes the gradients before the optimizer uses them."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.taken = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def one_step(trainer, model, rows, output_dir, batch, accumulation):
    """The gradients and the loss of one optimizer step, by a Trainer."""
    args = arguments(
        output_dir, max_steps=1, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation
    )
    gradients = Gradients()
    trainer = TRAINERS[trainer](
        model=deepcopy(model), args=args, train_dataset=rows, data_collator=collate, callbacks=[gradients]
    )
    return trainer.train().training_loss, gradients.taken


@pytest.mark.parametrize("head, options", TRAINED, ids=named)
def test_loss_is_the_one_by_hand(head, options):
    model, rows = tiny_model(head, num_hidden_layers=1, **options), rows_for(head, options)
    logits, targets = one_by_one(model, rows)
    for training, items in itertools.product((True, False), (None, 40)):
        loss = model.train(training)(**collate(rows), num_items_in_batch=items).loss.item()
        assert loss == pytest.approx(loss_by_hand(model.config, logits, targets, training, items), rel=1e-9)


@pytest.mark.parametrize(
    "head, options, others",
    [(*case, OTHER_STEPS[(index + index // 2) % 2]) for index, case in enumerate(TRAINED)],
    ids=named,
)
def test_accumulation_changes_neither_gradient_nor_loss(head, options, others, tmp_path):
    model, rows = tiny_model(head, num_hidden_layers=1, **options), rows_for(head, options)
    by_hand = loss_by_hand(model.config, *one_by_one(model, rows), training=True)
    _, gradients = one_step("ours", model, rows, tmp_path, 8, 1)
    assert all(gradient.any() for gradient in gradients.values())
    for trainer, batch, accumulation in others:
        loss, accumulated = one_step(trainer, model, rows, tmp_path, batch, accumulation)
        # The Trainer adds losses up in float32.
        assert loss == pytest.approx(by_hand, rel=1e-6)
        for name, gradient in gradients.items():
            error = ((accumulated[name] - gradient).abs().max() / gradient.abs().max()).item()
            assert error < 1e-9, f"{trainer} {batch} × {accumulation}: {name} differs by {error:.3g}"


class Stream(IterableDataset):
    """Rows one after the other, of which nobody knows how many there are."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        yield from self.rows


@pytest.mark.parametrize("head", KINDS, ids=named)
def test_a_stream_gives_the_losses_of_a_set(head, tmp_path):
    """accelerate takes the batches of a stream apart by rows, and puts them together again."""
    losses = []
    for rows_as in (list, Stream):
        options = {"max_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        args = arguments(tmp_path, **options, logging_steps=1, train_sampling_strategy="sequential")
        model = tiny_model(head, num_hidden_layers=1)
        torch.manual_seed(0)
        rows = rows_as(rows_for(head, {}))
        trainer = BlendTrainer(model=model, args=args, train_dataset=rows, data_collator=collate, scorers={})
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


# --- Evaluation ---


def evaluator(model, output_dir, **options):
    return BlendTrainer(model=model, args=arguments(output_dir, **options), data_collator=collate, scorers={})


@pytest.mark.parametrize("head, options", EVALUATED, ids=named)
def test_evaluation_loss_is_the_mean_over_targets_for_every_batch_size(head, options, tmp_path):
    model, rows = tiny_model(head, **options), rows_for(head, options)
    by_hand = loss_by_hand(model.config, *one_by_one(model, rows), training=False)
    for batch in (1, 3, 8):
        trainer = evaluator(model, tmp_path, per_device_eval_batch_size=batch)
        for prefix, metrics in {"eval": trainer.evaluate(rows), "test": trainer.predict(rows).metrics}.items():
            assert metrics[f"{prefix}_loss"] == pytest.approx(by_hand, rel=1e-9), f"batches of {batch}"
            # Of a loss that is not that of tokens, such as a squared error, it means nothing.
            is_language_model = model.get_output_embeddings() is not None
            expected = math.exp(metrics[f"{prefix}_loss"]) if is_language_model else None
            assert metrics.get(f"{prefix}_perplexity") == expected


class Float64(TorchDispatchMode):
    """Names the operations that return float64, which not every device has: MPS does not."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (list, tuple)) else [results]:
            if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
                self.names.append(func.name())
        return results


@pytest.mark.parametrize("head, options", EVALUATED, ids=named)
def test_no_step_computes_in_float64(head, options, tmp_path):
    rows = rows_for(head, options)
    for row in rows:
        if row["labels"].is_floating_point():
            row["labels"] = row["labels"].float()
    trainer = evaluator(tiny_model(head, **options).float(), tmp_path, max_steps=1)
    batch = trainer._prepare_inputs(collate(rows))
    with Float64() as found:
        trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
        trainer.model.train()(**batch).loss.backward()
    assert found.names == []
    assert trainer.losses.mean()[1]


def test_of_a_regression_every_number_is_a_target(tmp_path):
    """Also -100, which elsewhere marks what is no target."""
    head, options = BlendEncoderForSequenceClassification, {"problem_type": "regression", "num_labels": 1}
    rows = rows_for(head, options)
    for row in rows[::2]:
        row["labels"] = torch.full_like(row["labels"], -100)
    model = tiny_model(head, **options)
    by_hand = loss_by_hand(model.config, *one_by_one(model, rows), training=False)
    for batch in (1, 3, 8):
        metrics = evaluator(model, tmp_path, per_device_eval_batch_size=batch).evaluate(rows)
        assert metrics["eval_loss"] == pytest.approx(by_hand, rel=1e-9)
    settings = {"max_steps": 1, "logging_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    args = arguments(tmp_path, **settings)
    trainer = BlendTrainer(model=model, args=args, train_dataset=rows, data_collator=collate, scorers={})
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("head", KINDS, ids=named)
def test_label_smoothing_of_the_arguments_is_that_of_the_model(head, tmp_path):
    """transformers' LabelSmoother would take the labels from the model, which makes its decoder's inputs of them."""
    weights = WEIGHTED if "Classification" in head.__name__ else {}
    losses, rows = [], rows_for(head, PROBLEMS[0])
    for given, own in (({"label_smoothing_factor": 0.2}, {}), ({}, SMOOTHED)):
        args = arguments(tmp_path, max_steps=2, logging_steps=1, per_device_train_batch_size=4, **given)
        model = tiny_model(head, **own, **weights)
        trainer = BlendTrainer(model=model, args=args, train_dataset=rows, data_collator=collate, scorers={})
        assert trainer.model.config.label_smoothing == 0.2
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("head", [each for each in KINDS if each.__name__.endswith("LM")], ids=named)
def test_label_smoothing_of_transformers_is_that_of_the_model(head, tmp_path):
    """For a decoder, transformers' Trainer must shift the labels by one. It sums in float32."""
    rows, losses = rows_for(head, {}), []
    for options, args in (({}, {"label_smoothing_factor": 0.2}), (SMOOTHED, {})):
        model, batch = tiny_model(head, num_hidden_layers=1, **options).train(), collate(rows)
        if not options and hasattr(model, "prepare_decoder_input_ids_from_labels"):
            batch["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(batch["labels"])
        losses.append(Trainer(model, arguments(tmp_path, **args)).compute_loss(model, batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


SMOOTH = """
import json, sys, torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
directory, losses = json.load(sys.stdin), []
batch = {name: torch.arange(3, 9)[None] for name in ("input_ids", "labels")}
for factor, own in ((0.2, 0.0), (0.0, 0.2)):
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, label_smoothing=own).train()
    args = TrainingArguments(directory, label_smoothing_factor=factor, report_to=[], use_cpu=True)
    losses.append(Trainer(model, args).compute_loss(model, dict(batch)).item())
print(json.dumps(losses))
"""


def test_label_smoothing_of_transformers_without_the_package(tmp_path):
    tiny_model(BlendDecoderForCausalLM).float().save_pretrained(tmp_path)
    losses = json.loads(run_without_package(SMOOTH, str(tmp_path), tmp_path).stdout.splitlines()[-1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_label_smoothing_needs_classes(tmp_path):
    model = tiny_model(BlendEncoderForSequenceClassification, problem_type="regression", num_labels=1)
    with pytest.raises(InputError, match="label_smoothing_factor: a regression has no classes"):
        evaluator(model, tmp_path, label_smoothing_factor=0.1)


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({}, "eval_strategy and metric_for_best_model"),
        ({"eval_strategy": "epoch"}, "metric_for_best_model"),
        ({"metric_for_best_model": "loss"}, "eval_strategy"),
    ],
    ids=str,
)
def test_early_stopping_needs_a_metric_and_evaluations(options, missing, tmp_path):
    """transformers asserted it when the training began."""
    args = BlendTrainingArguments(output_dir=str(tmp_path), use_cpu=True, early_stopping_patience=1, **options)
    with pytest.raises(InputError, match=f"early_stopping_patience: needs {missing} too"):
        BlendTrainer(model=tiny_model(BlendEncoderForSequenceClassification), args=args)


def test_an_evaluation_in_half_precision_leaves_the_weights(tmp_path):
    model, rows = tiny_model(BlendEncoderForMaskedLM).float(), rows_for(BlendEncoderForMaskedLM, {})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = [evaluator(model, tmp_path, bf16_full_eval=full).evaluate(rows)["eval_loss"] for full in (True, False)]
    assert losses[0] != losses[1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_scorer_of_one_split_scores_no_other(tmp_path):
    model = tiny_model(BlendEncoderForSequenceClassification)
    rows = rows_for(BlendEncoderForSequenceClassification, {})
    scorers = {"eval": lambda predicted: {"first": 1.0}, "test": lambda predicted: {"second": 2.0}}
    trainer = BlendTrainer(model=model, args=arguments(tmp_path), data_collator=collate, scorers=scorers)
    before = trainer.evaluate(rows, metric_key_prefix="dev")
    trainer.predict(rows)
    after = trainer.evaluate(rows, metric_key_prefix="dev")
    assert before["dev_first"] == after["dev_first"] == 1.0 and "dev_second" not in after


def test_workers_of_other_sets_end(tmp_path):
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    rows = rows_for(BlendEncoderForMaskedLM, {})
    trainer = evaluator(tiny_model(BlendEncoderForMaskedLM), tmp_path, **options)
    trainer.eval_dataset = rows
    loaders = [trainer.get_eval_dataloader(each) for each in (rows, rows, rows[:3], rows[:3])]
    assert loaders[0] is loaders[1] and loaders[2] is not loaders[3]


def test_rows_without_labels_or_with_a_column_called_length_will_do(tmp_path):
    """A collator may make the labels, and only max_tokens_per_batch reads lengths."""
    rows = datasets.Dataset.from_dict({"input_ids": [[5, 6, 7], [8, 9]], "length": [0.5, 1.5]})

    def make_labels(features):
        ids = [torch.tensor(feature["input_ids"]) for feature in features]
        return padded([{"input_ids": each, "labels": each} for each in ids])

    args = arguments(tmp_path, max_steps=1)
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM)
    trainer = BlendTrainer(model=model, args=args, train_dataset=rows, data_collator=make_labels, scorers={})
    assert trainer.train().metrics["train_loss"] > 0


def test_a_mean_over_no_target_is_left_out(tmp_path):
    """Zero would be the best loss, and one the best perplexity."""
    rows = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in rows_for(BlendEncoderForMaskedLM, {})]
    metrics = evaluator(tiny_model(BlendEncoderForMaskedLM), tmp_path).evaluate(rows)
    assert not [name for name in metrics if "loss" in name or "perplexity" in name]


def test_a_split_with_metrics_has_them_and_no_perplexity(tmp_path):
    """Each split is scored against its own rows; perplexity is for language models."""
    model = tiny_model(BlendEncoderForSequenceClassification)
    rows = rows_for(BlendEncoderForSequenceClassification, {})
    scorers = {"eval": lambda predicted: {"first": 1.0}, "test": lambda predicted: {"second": 2.0}}
    trainer = BlendTrainer(model=model, args=arguments(tmp_path), data_collator=collate, scorers=scorers)
    for _ in range(2):
        evaluated, predicted = trainer.evaluate(rows), trainer.predict(rows).metrics
        assert evaluated["eval_first"] == 1.0 and predicted["test_second"] == 2.0
        assert not [name for name in (*evaluated, *predicted) if "perplexity" in name]


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "batch_rebalance"])
def test_predictions_keep_the_order_of_the_rows(strategy, tmp_path):
    model = tiny_model(BlendEncoderForTokenClassification)
    rows = rows_for(BlendEncoderForTokenClassification, {})
    trainer = evaluator(model, tmp_path, train_sampling_strategy=strategy, per_device_eval_batch_size=3)
    predicted = trainer.predict(rows)
    for logits, labels, row in zip(predicted.predictions, predicted.label_ids, rows, strict=True):
        length = len(row["labels"])
        assert labels[:length].tolist() == row["labels"].tolist()
        alone = model(input_ids=row["input_ids"][None]).logits[0]
        assert_close(torch.tensor(logits[:length]), alone.detach())


@pytest.mark.parametrize("own", [{}, {"args": TrainingArguments}], ids=["no arguments", "of another class"])
def test_arguments_of_every_class_will_do(own, tmp_path, monkeypatch):
    """As will metrics that are computed as transformers' Trainer computes them."""
    monkeypatch.chdir(tmp_path)
    given = {name: kind("out", use_cpu=True, disable_tqdm=True) for name, kind in own.items()}
    model = tiny_model(BlendEncoderForSequenceClassification)
    rows = rows_for(BlendEncoderForSequenceClassification, {})
    trainer = BlendTrainer(model=model, data_collator=collate, compute_metrics=lambda predicted: {"one": 1.0}, **given)
    metrics = trainer.evaluate(rows)
    assert metrics["eval_one"] == 1.0 and "eval_loss" in metrics and "eval_perplexity" not in metrics


# --- Learning ---


def train(
    model,
    rows,
    output_dir,
    *,
    resume=None,
    callbacks=(),
    scorers=(),
    eval_dataset=None,
    data_collator=collate,
    **options,
):
    """The Trainer, after a run."""
    trainer = BlendTrainer(
        model=model,
        args=arguments(output_dir, **options),
        train_dataset=rows,
        eval_dataset=eval_dataset,
        data_collator=data_collator,
        callbacks=list(callbacks),
        scorers=dict(scorers),
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


@pytest.mark.parametrize(
    "options", [{}, {"position_type": "learned", "mlp_bias": True, "lm_head_bias": True}], ids=named
)
@every_head
def test_one_step_changes_every_parameter(model_class, options, tmp_path):
    model = tiny_model(model_class, **options)
    before = deepcopy(model.state_dict())
    train(model, rows_for(model_class, {}), tmp_path, max_steps=1, learning_rate=1e-3)
    same = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not same


class DrawingRows(list):
    """Rows that draw a random number whenever they are counted."""

    def __len__(self):
        torch.rand(1)
        return super().__len__()


@pytest.mark.parametrize("options", [{}, {"warmup_steps": 2}], ids=named)
def test_a_check_before_training_changes_nothing(options, tmp_path):
    """Neither a weight nor a random number: dropout and the order of the rows are the same ones."""
    options |= {"max_steps": 3, "per_device_train_batch_size": 2}
    rows = DrawingRows(rows_for(BlendEncoderForMaskedLM, {}))
    model = tiny_model(BlendEncoderForMaskedLM, hidden_dropout=0.2)
    trained = []
    for checks in (0, 1, 2):
        trainer = TRAINERS["ours"](
            model=deepcopy(model), args=arguments(tmp_path, **options), train_dataset=rows, data_collator=collate
        )
        for _ in range(checks):
            trainer.check()
        trainer.train()
        trained.append(trainer.model.state_dict())
    assert all(torch.equal(tensor, each[name]) for name, tensor in trained[0].items() for each in trained[1:])


@every_head
def test_four_examples_are_learnt_in_thirty_steps(model_class, tmp_path):
    model = model_class(tiny_config(model_class.config_class, initializer_range=0.1))
    rows = rows_for(model_class, {}, LENGTHS[:4])
    options = {"max_steps": 30, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    assert train(model, rows, tmp_path, **options).evaluate(rows)["eval_loss"] < 0.1


def test_generate_gives_back_what_was_learnt(tmp_path):
    """With labels shifted twice a model learns to write every other token."""
    sizes = {"vocab_size": 13, "hidden_size": 64, "num_hidden_layers": 1, "initializer_range": 0.1}
    model = BlendEncoderDecoderForSeq2SeqLM(tiny_config(BlendEncoderDecoderConfig, **sizes))
    # Of each number below 200 its digits, and four digits or fewer that have nothing to do with it. Without the end
    # token the encoder could not tell 1 from 11: what it sees is a mean over equal tokens.
    sources = [torch.tensor([3 + int(digit) for digit in str(number)]) for number in range(200)]
    targets = [torch.randint(3, 13, (length,)) for length in (1, 2, 3, 4) for _ in range(50)]
    rows = [
        {"input_ids": torch.cat((source, END)), "labels": torch.cat((target, END))}
        for source, target in zip(sources, targets, strict=True)
    ]
    options = {"num_train_epochs": 80, "per_device_train_batch_size": 50, "learning_rate": 5e-3, "warmup_steps": 30}
    assert train(model, rows, tmp_path, lr_scheduler_type="cosine", **options).evaluate(rows)["eval_loss"] < 0.05
    batch = collate(rows)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    written = model.eval().generate(**inputs, do_sample=False, max_new_tokens=8)[:, 1:]
    right = [torch.equal(line[: len(row["labels"])], row["labels"]) for line, row in zip(written, rows, strict=True)]
    assert sum(right) >= 198


# --- Checkpoints ---


# After which step; test_resume.py has every way to end a run.
RESUMED = [
    (BlendEncoderForMaskedLM, "masked-lm", 1),
    (BlendEncoderForMaskedLM, "masked-lm", 2),
    (BlendDecoderForCausalLM, "causal-lm", 3),
    (BlendEncoderDecoderForSeq2SeqLM, "seq2seq-lm", 1),
    (BlendEncoderDecoderForSeq2SeqLM, "seq2seq-lm", 2),
]


class StopAt(TrainerCallback):
    """Saves and stops after some steps."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


@pytest.mark.parametrize("model_class, task, stop", RESUMED, ids=named)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(model_class, task, stop, tmp_path):
    # Two steps an epoch; dropout and masks must be the same ones.
    options = {"max_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 1}
    texts = [f"row {length} " + "abc" * length for length in LENGTHS]
    tokenizer = train_tokenizer(texts, "char", VOCAB)
    rows = [{"input_ids": ids, "labels": ids} for ids in tokenizer(texts)["input_ids"]]
    if task == "masked-lm":
        rows = [{"input_ids": row["input_ids"]} for row in rows]
    model = tiny_model(model_class, hidden_dropout=0.2, attention_dropout=0.2).float()
    run = partial(train, rows=rows, data_collator=collator_of(task, tokenizer), **options)
    whole = run(deepcopy(model), output_dir=tmp_path / "whole")
    run(deepcopy(model), output_dir=tmp_path / "run", callbacks=[StopAt(stop)])
    fill(model, 1.0)
    resumed = run(model, output_dir=tmp_path / "run", resume=tmp_path / "run" / f"checkpoint-{stop}")
    losses = [[entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_the_trainer_tells_the_collator_the_epoch(tmp_path):
    tokenizer = train_tokenizer(["abcabc"], "char", VOCAB)
    collator = collator_of("masked-lm", tokenizer)
    rows = [{"input_ids": tokenizer("abcabc")["input_ids"]}] * 3
    train(tiny_model(BlendEncoderForMaskedLM), rows, tmp_path, data_collator=collator, num_train_epochs=3)
    assert collator.epoch == 2


TENSOR = "model.layers.1.mlp.up_proj.weight"


class Damage(TrainerCallback):
    """Takes a tensor out of each checkpoint, or gives it another name, as if that had been written."""

    def __init__(self, rename):
        self.rename = rename

    def on_save(self, args, state, control, **kwargs):
        path = Path(args.output_dir, f"checkpoint-{state.global_step}", "model.safetensors")
        tensors = safetensors.torch.load_file(path)
        tensor = tensors.pop(TENSOR)
        if self.rename:
            tensors[TENSOR.replace("up", "upper")] = tensor
        safetensors.torch.save_file(tensors, path, {"format": "pt"})
        write_manifest(path.parent)


every_damage = pytest.mark.parametrize("damage", [Damage(False), Damage(True)], ids=["missing", "renamed"])


@every_damage
def test_a_checkpoint_that_does_not_match_is_not_resumed(damage, tmp_path):
    model, rows = (
        tiny_model(BlendEncoderForSequenceClassification),
        rows_for(BlendEncoderForSequenceClassification, {}),
    )
    train(model, rows, tmp_path, callbacks=[StopAt(1), damage])
    with pytest.raises(InputError, match=TENSOR):
        train(model, rows, tmp_path, resume=tmp_path / "checkpoint-1")


def train_for_best(output_dir, callbacks=()):
    """Three steps, each evaluated and saved, of which the second is the best."""
    scores = iter([1.0, 3.0, 2.0])
    rows = rows_for(BlendEncoderForSequenceClassification, {})
    return train(
        tiny_model(BlendEncoderForSequenceClassification),
        rows,
        output_dir,
        callbacks=callbacks,
        eval_dataset=rows,
        scorers={"eval": lambda predicted: {"score": next(scores)}},
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )


def test_the_best_model_comes_back(tmp_path):
    trainer = train_for_best(tmp_path)
    best, last = (safetensors.torch.load_file(tmp_path / f"checkpoint-{n}" / "model.safetensors") for n in (2, 3))
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, best[name]) and not torch.equal(tensor, last[name]), name


@every_damage
def test_a_best_model_that_does_not_match_is_not_loaded(damage, tmp_path):
    with pytest.raises(InputError, match=TENSOR):
        train_for_best(tmp_path, [damage])


def test_the_batch_size_that_was_found_is_recorded(tmp_path, monkeypatch):
    step = BlendTrainer.training_step

    def with_small_memory(trainer, model, inputs, *args, **kwargs):
        if len(inputs["labels"]) > 2:
            raise RuntimeError("CUDA out of memory.")
        return step(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(BlendTrainer, "training_step", with_small_memory)
    options = {"auto_find_batch_size": True, "per_device_train_batch_size": 4, "max_steps": 1}
    head = BlendEncoderForSequenceClassification
    trainer = BlendTrainer(
        model=tiny_model(head),
        args=arguments(tmp_path, **options),
        train_dataset=rows_for(head, {}),
        data_collator=collate,
    )
    trainer.train()
    record = trainer.state.stateful_callbacks["RunRecord"]["attributes"]["facts"]
    assert ("per_device_train_batch_size", "2") in record["hyperparameters"]


@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel])
def test_a_model_that_is_wrapped_reads_the_same_columns(wrap, tmp_path):
    """The `forward` of a wrapper takes any arguments; accelerate puts one in place of the model during training."""
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = BlendTrainer(model=tiny_model(BlendDecoderForCausalLM), args=args)
    columns = trainer.loaders._columns()
    trainer.model = wrap(trainer.model)
    assert trainer.loaders._columns() == columns and "input_ids" in columns
