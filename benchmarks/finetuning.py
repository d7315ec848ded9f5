"""The benchmark `finetune`: epochs of fine-tuning through our Trainer and through transformers' own, side by side."""

import copy
import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..conversion import from_original, to_original
from ..conversion.reading import quiet
from ..modeling.losses import IGNORE
from ..tasks.base import Task
from ..tasks.encoding import OVERFLOW_COLUMNS, Row, Settings
from ..tasks.models import reads_token_types
from ..tasks.registry import TASKS
from ..tokenization.training import train_tokenizer
from ..training.models import special_token_ids
from ..training.trainer import BlendTrainer
from .compare import Case, Plan, Result, compare_times
from .lengths import BatchLengths, read_json_lines
from .systems import OURS, Size, System, check_agreement, from_config

# As in transformers' example scripts.
MAX_LENGTH = 128
EVALUATION_ROWS = 64
RANDOM_WEIGHTS = "random weights"
LEVELS = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1)


class TrainingSet(NamedTuple):
    """A dataset of the benchmark.

    Args:
        task: the task that it is for.
        collator: the collator of transformers for this task.
        num_rows: number of training rows.
        num_labels: number of labels.
        lengths: quantiles of the row lengths in WordPieces with [CLS] and [SEP], at LEVELS.
    """

    task: Task
    collator: type
    num_rows: int
    num_labels: int
    lengths: tuple[int, ...]


TRAINING_SETS = {
    "ud_en_ewt": TrainingSet(
        TASKS["token-classification"],
        DataCollatorForTokenClassification,
        num_rows=12544,
        num_labels=17,
        lengths=(3, 4, 11, 18, 27, 46, 68, 106, 176),
    ),
    "clinc150": TrainingSet(
        TASKS["sequence-classification"],
        DataCollatorWithPadding,
        num_rows=15000,
        num_labels=150,
        lengths=(3, 6, 9, 11, 13, 18, 21, 26, 33),
    ),
}


class Outcome(NamedTuple):
    """What a run of training gave.

    Args:
        loss: the mean loss of its steps.
        weights: the trained weights.
    """

    loss: float
    weights: dict[str, torch.Tensor]


@dataclass
class Training:
    """A Trainer with its model, which begins every run with the initial weights.

    Args:
        trainer_class: BlendTrainer or Trainer.
        model: the model.
        collator: makes batches of rows.
        tokenizer: of the checkpoint.
        options: the training arguments.
    """

    trainer_class: type[Trainer]
    model: PreTrainedModel
    collator: Callable[[list[Row]], dict[str, torch.Tensor]]
    tokenizer: PreTrainedTokenizerBase
    options: dict[str, Any]

    def __post_init__(self) -> None:
        self.initial = copy.deepcopy(self.model.state_dict())

    @property
    def name(self) -> str:
        return type(self.model).__name__

    def run(self, rows: datasets.Dataset, seed: int = 0) -> Outcome:
        """Train for an epoch on the rows, in their order.

        Args:
            rows: the encoded rows.
            seed: of dropout.
        """
        self.model.load_state_dict(self.initial)
        trainer = self.trainer_class(
            model=self.model,
            args=TrainingArguments(**self.options, seed=seed),
            data_collator=self.collator,
            train_dataset=rows,
            processing_class=self.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        loss = trainer.train().training_loss
        return Outcome(loss, copy.deepcopy(self.model.state_dict()))

    @torch.inference_mode()
    def accuracy(self, weights: dict[str, torch.Tensor], rows: datasets.Dataset) -> float:
        """The part of the labels, one a row or one a word, that the model predicts with these weights."""
        self.model.load_state_dict(weights)
        self.model.eval()
        right = total = 0
        for start in range(0, len(rows), EVALUATION_ROWS):
            batch = self.collator(list(rows.select(range(start, min(start + EVALUATION_ROWS, len(rows))))))
            inputs = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
            labels = inputs.pop("labels")
            is_known = labels != IGNORE
            right += int((self.model(**inputs).logits.argmax(-1) == labels)[is_known].sum())
            total += int(is_known.sum())
        return right / total


def finetune(plan: Plan) -> list[Result]:
    """Epochs of fine-tuning a checkpoint, as a user runs them: Trainer, collator, optimizer, schedule, clipping.

    Both Trainers get the same initial weights, the same batches in the same order and the same arguments. The batches
    are drawn at random, or grouped by length as transformers does.
    """
    rows = []
    for size in plan.sizes["finetune"]:
        for name in TRAINING_SETS:
            with tempfile.TemporaryDirectory() as directory:
                rows += compare_epochs(plan, size, name, Path(directory))
    return rows


def compare_epochs(plan: Plan, size: Size, name: str, directory: Path) -> list[Result]:
    """Time epochs of both Trainers on one dataset, with random and with length-grouped batches.

    Args:
        plan: device, data and checkpoint.
        size: the batches; without a checkpoint, also the size of the model.
        name: of the dataset.
        directory: where models are stored meanwhile.
    """
    columns, epoch_rows = draw_rows(plan, size, name)
    checkpoint = plan.checkpoint or save_random_checkpoint(size, columns, directory / "checkpoint")
    options = training_options(plan, size, directory / "runs")
    rows, *trainings = prepare(checkpoint, TRAINING_SETS[name], columns, options, directory / "stock")
    validation = read_validation(plan, name, columns, trainings)
    check_first_batch(trainings, rows.select(range(min(size.batch_rows, len(rows)))))
    keys = {
        "data": name if plan.data is not None else f"random, lengths of {name}",
        "checkpoint": RANDOM_WEIGHTS if plan.checkpoint is None else plan.checkpoint.resolve().name,
        "batch": size.batch_rows,
        "batches": math.ceil(len(rows) / size.batch_rows),
        "epoch_batches": math.ceil(epoch_rows / size.batch_rows),
    }
    ours, theirs = (training.model.config for training in trainings)
    size = replace(size, num_hidden_layers=ours.num_hidden_layers, hidden_size=ours.hidden_size)
    orders = {"padded": random_order, "length-grouped": partial(grouped_order, size=size, epoch_rows=epoch_rows)}
    results = []
    for form, order in orders.items():
        epochs = [rows.select(order(rows, seed=seed)) for seed in range(size.repeats)]
        case = Case("finetune", theirs.model_type, size, lengths_of_batches(epochs[0], size), keys)
        results += time_trainings(plan, case, trainings, form, epochs, validation)
    return results


def time_trainings(
    plan: Plan,
    case: Case,
    trainings: list[Training],
    form: str,
    epochs: list[datasets.Dataset],
    validation: datasets.Dataset | None,
) -> list[Result]:
    """Time the trainings, after two batches to warm up.

    Args:
        plan: the device.
        case: of the first epoch.
        trainings: ours, and the stock one.
        form: the name of the batches.
        epochs: the rows of each repetition; its index is the seed of dropout.
        validation: the rows for the accuracy after training; None: it is not measured.
    """
    named = {OURS: trainings[0], f"{trainings[1].name} {form}": trainings[1]}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in named}

    def train(name: str) -> None:
        seed = len(outcomes[name])
        outcomes[name].append(named[name].run(epochs[seed], seed))

    for training in trainings:
        training.run(epochs[0].select(range(min(2 * case.size.batch_rows, len(epochs[0])))))
    results = compare_times(plan, case, training_dtype(plan), {name: partial(train, name) for name in named})
    for result in results:
        name = result["system"]
        result["train_loss"] = round(mean(outcome.loss for outcome in outcomes[name]), 4)
        if validation is not None:
            accuracies = [named[name].accuracy(outcome.weights, validation) for outcome in outcomes[name]]
            result["accuracy"] = f"{100 * mean(accuracies):.2f} ({', '.join(f'{100 * a:.1f}' for a in accuracies)})"
    return results


# --- Rows ---


def draw_rows(plan: Plan, size: Size, name: str) -> tuple[dict[str, list], int]:
    """Random training rows, as many as an epoch of the benchmark has.

    Returns:
        The columns of the rows, and the number of rows that an epoch of the whole dataset has.
    """
    training_set = TRAINING_SETS[name]
    known = None if plan.data is None else read_json_lines(plan.data / name / "train.jsonl")
    epoch_rows = training_set.num_rows if known is None else len(known)
    number = epoch_rows if plan.whole_epochs else min(epoch_rows, size.num_batches * size.batch_rows)
    rows = random_rows(training_set, number) if known is None else random.Random(0).sample(known, number)
    task = training_set.task
    return {column: [row[column] for row in rows] for column in (task.inputs[0], task.reference)}, epoch_rows


def read_validation(
    plan: Plan, name: str, columns: dict[str, list], trainings: list[Training]
) -> datasets.Dataset | None:
    """The encoded validation rows of a dataset; None for random rows, and if an epoch has only a part of the rows."""
    if plan.data is None or not plan.whole_epochs:
        return None
    task, ours = TRAINING_SETS[name].task, trainings[0]
    rows = read_json_lines(plan.data / name / "validation.jsonl")
    settings = make_settings(ours.tokenizer, label_names(columns[task.reference]), ours.model)
    return encode(task, {column: [row[column] for row in rows] for column in columns}, settings)


def missing_file(directory: Path | None, whole_epochs: bool) -> Path | None:
    """The first file that a directory of datasets lacks; None if it has all, or without a directory.

    Args:
        directory: of the datasets.
        whole_epochs: whether the validation files are needed, too.
    """
    splits = ["train", "validation"] if whole_epochs else ["train"]
    files = [directory / name / f"{split}.jsonl" for name in TRAINING_SETS for split in splits] if directory else []
    return next((file for file in files if not file.is_file()), None)


def random_rows(training_set: TrainingSet, number: int) -> list[dict[str, Any]]:
    """Rows of random words and labels with the lengths of a dataset; each word is one token of BERT's vocabulary."""
    rng, task = np.random.default_rng(0), training_set.task
    lengths = np.rint(np.interp(rng.random(number), LEVELS, training_set.lengths)).astype(int)
    rows = []
    for length in lengths:
        words = [str(word) for word in rng.integers(100, size=max(1, length - 2))]
        tags = [f"label{label}" for label in rng.integers(training_set.num_labels, size=len(words))]
        values = (words, tags) if task.reads_words else (" ".join(words), tags[0])
        rows.append(dict(zip((task.inputs[0], task.reference), values, strict=True)))
    return rows


def label_names(column: list) -> list[str]:
    """The labels in a column of labels, or of lists of labels."""
    return sorted({label for value in column for label in ([value] if isinstance(value, str) else value)})


def make_settings(tokenizer: PreTrainedTokenizerBase, labels: list[str], model: PreTrainedModel) -> Settings:
    """The settings of the task."""
    lengths = dict.fromkeys(("max_length", "max_source_length", "max_target_length"), MAX_LENGTH)
    token_types = reads_token_types(model.config)
    return Settings(tokenizer, labels, problem_type=None, token_types=token_types, seed=0, **lengths)


def encode(task: Task, columns: dict[str, list], settings: Settings) -> datasets.Dataset:
    """The rows, encoded for the model."""
    features = task.encode(columns, settings)
    return datasets.Dataset.from_dict({key: features[key] for key in features if key not in OVERFLOW_COLUMNS})


def row_lengths(rows: datasets.Dataset) -> list[int]:
    """The number of tokens of each row."""
    return [len(ids) for ids in rows["input_ids"]]


def random_order(rows: datasets.Dataset, seed: int = 0) -> list[int]:
    """A random order of the rows."""
    return torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()


def grouped_order(rows: datasets.Dataset, size: Size, epoch_rows: int, seed: int = 0) -> list[int]:
    """The order of train_sampling_strategy="group_by_length", sorted in pieces as long as in an epoch of all rows."""
    batches = max(1, min(epoch_rows // (4 * size.batch_rows), 50))
    generator = torch.Generator().manual_seed(seed)
    return get_length_grouped_indices(row_lengths(rows), size.batch_rows, batches, generator)


def lengths_of_batches(rows: datasets.Dataset, size: Size) -> BatchLengths:
    """The row lengths of each batch of an epoch."""
    lengths = [(length,) for length in row_lengths(rows)]
    return [lengths[start : start + size.batch_rows] for start in range(0, len(lengths), size.batch_rows)]


# --- Models ---


def training_dtype(plan: Plan) -> torch.dtype:
    """The data type of the passes forward and backward, whatever those of other benchmarks are."""
    return torch.bfloat16 if plan.device.type == "cuda" else torch.float32


def training_options(plan: Plan, size: Size, directory: Path) -> dict[str, Any]:
    """The training arguments of both Trainers: those of the examples in examples/pretrained."""
    return {
        "output_dir": str(directory),
        "num_train_epochs": 1,
        "per_device_train_batch_size": size.batch_rows,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        # The rows are already in the order of the batches.
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": plan.device.type == "cpu",
        "bf16": training_dtype(plan) == torch.bfloat16,
    }


def save_random_checkpoint(size: Size, columns: dict[str, list], directory: Path) -> Path:
    """Save a BertModel with random weights and MiniLM's head size, and a tokenizer of the rows."""
    torch.manual_seed(0)
    texts = [value if isinstance(value, str) else " ".join(value) for value in next(iter(columns.values()))]
    tokenizer = train_tokenizer(texts, "wordpiece", size.vocab_size, exact=False)
    heads = {"num_attention_heads": max(1, size.hidden_size // 32), "intermediate_size": 4 * size.hidden_size}
    config = BertConfig(**{**size.shape, **heads, **special_token_ids(tokenizer)})
    with quiet():
        from_config(BertModel, config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def prepare(
    checkpoint: Path, training_set: TrainingSet, columns: dict[str, list], options: dict[str, Any], directory: Path
) -> tuple[datasets.Dataset, Training, Training]:
    """The encoded rows, our training, and that of transformers with the same weights.

    Args:
        checkpoint: of any architecture that can be converted.
        training_set: the task, and transformers' collator.
        columns: the rows.
        options: the training arguments.
        directory: where the stock model is stored.
    """
    task = training_set.task
    labels = label_names(columns[task.reference])
    ours, theirs = load_pair(checkpoint, task, len(labels), directory)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    settings = make_settings(tokenizer, labels, ours)
    return (
        encode(task, columns, settings),
        Training(BlendTrainer, ours, task.make_collator(settings), tokenizer, options),
        Training(Trainer, theirs, training_set.collator(tokenizer), tokenizer, options),
    )


def load_pair(checkpoint: Path, task: Task, num_labels: int, directory: Path) -> list[PreTrainedModel]:
    """Our model of a checkpoint with a new head, and the stock model with the same weights."""
    torch.manual_seed(0)
    ours = from_original(checkpoint, task.auto_class, num_labels=num_labels)
    to_original(ours, directory)
    # Without the warning that a class leaves out the pooler.
    with quiet():
        stock = task.auto_class.from_pretrained(directory, attn_implementation="sdpa", trust_remote_code=False)
    return [ours, stock]


def check_first_batch(trainings: list[Training], rows: datasets.Dataset) -> None:
    """Raises AssertionError if the two models have other outputs for a batch of these rows."""
    features = list(rows)
    check_agreement(
        [System(each.name, each.model, [dict(each.collator(features))], equals_ours=True) for each in trainings]
    )
