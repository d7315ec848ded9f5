"""Train, evaluate and predict: `python train.py [FILE.yaml|FILE.json] [--flag value …]`, `--help` for all flags."""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
from huggingface_hub.errors import StrictDataclassError
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Seq2SeqTrainingArguments, set_seed

from seqblend.configuration.base import unknown
from seqblend.hub_card.card import Given
from seqblend.hub_card.publish import Destination, PublishError, check_access
from seqblend.hub_card.record import hardware, versions
from seqblend.training.arguments import (
    DataArguments,
    ModelArguments,
    card_facts,
    finish_arguments,
    parse_arguments,
    public_command,
)
from seqblend.training.collation import COLLATORS
from seqblend.training.data import collect_labels, load_data
from seqblend.training.files import InputError
from seqblend.training.models import build_config, known_labels, load_model, parts_of
from seqblend.training.tasks import TASKS, Settings, Task, check_metric, shown_example
from seqblend.training.tokenization import load_tokenizer, texts_of, train_tokenizer
from seqblend.training.trainer import BlendTrainer

# The prefix that transformers gives the metrics of a split.
PREFIXES = {"eval": "validation", "test": "test"}


@dataclass
class Job:
    """A run that has passed every check and is ready to start.

    Args:
        task: what is learnt.
        rows: the splits as read.
        encoded: the splits as the model reads them.
        settings: what the task needs to know of this run.
        model: to be trained.
        trainer: trains it.
        facts: what made the results.
    """

    task: Task
    rows: datasets.DatasetDict
    encoded: datasets.DatasetDict
    settings: Settings
    model: PreTrainedModel
    trainer: BlendTrainer
    facts: dict[str, str | int]

    def run(self) -> None:
        """Train, evaluate and predict on the splits that exist; write the results beside the model."""
        args = self.trainer.args
        if args.do_train:
            self.train(args.resume_from_checkpoint)
        if args.do_eval:
            self.report("eval", {**self.trainer.evaluate(), "eval_samples": len(self.rows["validation"])})
        if args.do_predict:
            self.predict()
        self.trainer.save_metrics("run", self.facts)
        if args.do_train:
            self.publish()

    def train(self, resume_from_checkpoint: str | None) -> None:
        """Train, save the model, and report how it went."""
        result = self.trainer.train(resume_from_checkpoint=resume_from_checkpoint)
        # It is pushed when everything is measured.
        self.trainer.save_model(_internal_call=True)
        self.trainer.save_state()
        self.report("train", {**result.metrics, "train_samples": len(self.rows["train"])})

    def predict(self) -> None:
        """Predict the test split and write one object a row to predictions.jsonl."""
        predicted = self.trainer.predict(self.encoded["test"])
        self.report("test", {**predicted.metrics, "test_samples": len(self.rows["test"])})
        if predicted.predictions is None or not self.trainer.is_world_process_zero():
            return
        answers = self.task.answer(predicted, self.rows["test"], self.settings)
        path = Path(self.trainer.args.output_dir, "predictions.jsonl")
        with path.open("w", encoding="utf-8") as file:
            for row, answer in zip(self.rows["test"], answers, strict=True):
                inputs = [row[name] for name in self.task.inputs if name in row]
                entry = {"input": inputs[0] if len(inputs) == 1 else inputs, **answer}
                entry["reference"] = row[self.task.reference]
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def publish(self) -> None:
        """Write the model card, and push where that is asked for."""
        if self.trainer.args.push_to_hub:
            self.trainer.push_to_hub()
        else:
            self.trainer.create_model_card()

    def report(self, split: str, metrics: dict) -> None:
        """Print metrics and write {split}_results.json and all_results.json."""
        self.trainer.log_metrics(split, metrics)
        self.trainer.save_metrics(split, metrics)


def prepare(argv: list[str]) -> Job:
    """From the command line to a run that is ready to start.

    Raises:
        InputError: something the user said or gave is wrong; the message names it.
        ValueError: an option of the model is wrong.
    """
    model_args, data_args, training_args = parse_arguments(argv)
    if data_args.task is None:
        raise InputError(f"task: is missing; give one of {', '.join(TASKS)}")
    if data_args.task not in TASKS:
        raise InputError(unknown("task", data_args.task, list(TASKS)))
    task = TASKS[data_args.task]
    given = card_facts(data_args)
    if training_args.push_to_hub:
        name = training_args.hub_model_id or Path(training_args.output_dir).absolute().name
        check_access(Destination(name, token=training_args.hub_token))
    rows = read_rows(data_args, training_args.seed)
    finish_arguments(training_args, task, set(rows))
    if model_args.model_name_or_path and not training_args.do_train:
        # The labels are then the model's.
        rows = datasets.DatasetDict({split: rows[split] for split in rows if split != "train"})
    labels = read_labels(rows, data_args, model_args)
    tokenizer = make_tokenizer(model_args, data_args, rows)
    set_seed(training_args.seed)
    model = make_model(model_args, data_args, training_args, tokenizer, labels)
    settings = make_settings(data_args, training_args, tokenizer, labels, model)
    if training_args.metric_for_best_model is not None and "validation" in rows:
        check_metric(training_args.metric_for_best_model, task, rows["validation"], settings)
    encoded = datasets.DatasetDict({split: task.encode(rows[split], settings, split) for split in rows})
    scorers = {}
    if task.score is not None:
        scorers = {prefix: scorer(task, rows[split], settings) for prefix, split in PREFIXES.items() if split in rows}
    trainer = BlendTrainer(
        model=model,
        args=training_args,
        data_collator=COLLATORS[data_args.task](tokenizer),
        train_dataset=encoded.get("train"),
        eval_dataset=encoded.get("validation"),
        processing_class=tokenizer,
        scorers=scorers,
        given=Given(**{**shown_example(rows, task), **given}),
        preprocess_logits_for_metrics=task.reduce,
    )
    facts = {
        "command": public_command(argv, training_args.hub_token),
        "versions": ", ".join(f"{package} {number}" for package, number in versions().items()),
        "machine": hardware(training_args),
        "parameters": model.num_parameters(),
        "recipe": model_args.recipe or ("default" if model_args.model_name_or_path is None else "of a saved model"),
        **data_args.facts(),
    }
    return Job(task, rows, encoded, settings, model, trainer, facts)


def read_rows(data_args: DataArguments, seed: int) -> datasets.DatasetDict:
    """The splits that exist, checked, with standard column names."""
    return load_data(
        data_args.task,
        train_file=data_args.train_file,
        validation_file=data_args.validation_file,
        test_file=data_args.test_file,
        dataset_name=data_args.dataset_name,
        dataset_config_name=data_args.dataset_config_name,
        columns=data_args.columns(),
        problem_type=data_args.problem_type,
        max_train_samples=data_args.max_train_samples,
        max_eval_samples=data_args.max_eval_samples,
        seed=seed,
    )


def read_labels(rows: datasets.DatasetDict, data_args: DataArguments, model_args: ModelArguments) -> list[str]:
    """The labels of the training split, as the model orders them if it has the same; without one, the model's."""
    if not model_args.model_name_or_path:
        return collect_labels(rows, data_args.task, data_args.problem_type)
    known = known_labels(model_args.model_name_or_path)
    labels = collect_labels(rows, data_args.task, data_args.problem_type, known)
    return known if sorted(known) == sorted(labels) else labels


def make_tokenizer(
    model_args: ModelArguments, data_args: DataArguments, rows: datasets.DatasetDict
) -> PreTrainedTokenizerBase:
    """The tokenizer that was named, the model's, or one trained on the training split."""
    saved = model_args.tokenizer_name_or_path or model_args.model_name_or_path
    if saved:
        return load_tokenizer(saved)
    if "train" not in rows:
        raise InputError("train_file: there is no training split, and neither a model nor a tokenizer is named")
    return train_tokenizer(
        texts_of(rows["train"], data_args.task),
        model_args.tokenizer_type or "byte-bpe",
        model_args.vocab_size,
        model_args.tokenizer_normalization,
    )


def make_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: Seq2SeqTrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    labels: list[str],
) -> PreTrainedModel:
    """A new model, or a saved one, with the labels of this run; label smoothing moves from the Trainer into it."""
    task = TASKS[data_args.task]
    fields: dict = {}
    if labels:
        fields["id2label"] = dict(enumerate(labels))
        fields["label2id"] = {name: index for index, name in enumerate(labels)}
    if data_args.task == "sequence-classification":
        fields["problem_type"] = data_args.problem_type or "single_label_classification"
    if args.label_smoothing_factor:
        fields["label_smoothing"], args.label_smoothing_factor = args.label_smoothing_factor, 0.0
    if model_args.model_name_or_path:
        model = load_model(model_args, data_args.task, task, tokenizer, fields)
    else:
        model = task.auto_class.from_config(build_config(model_args, data_args.task, task, tokenizer, fields))
    if task.generates:
        # With the start token.
        model.generation_config.max_length = (data_args.max_target_length or data_args.max_length) + 1
        model.generation_config.num_beams = args.generation_num_beams or 1
    return model


def make_settings(
    data_args: DataArguments,
    args: Seq2SeqTrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    labels: list[str],
    model: PreTrainedModel,
) -> Settings:
    """What the task needs to know of this run. Raises InputError for a length that learned positions do not reach."""
    lengths = {
        "max_length": data_args.max_length,
        "max_source_length": data_args.max_source_length or data_args.max_length,
        "max_target_length": data_args.max_target_length or data_args.max_length,
    }
    parts = parts_of(model.config)
    used = [name for name in lengths if (name == "max_length") != TASKS[data_args.task].generates]
    name = max(used, key=lambda key: lengths[key])
    for config in parts:
        reach = getattr(config, "max_position_embeddings", None)
        if getattr(config, "position_type", None) == "learned" and lengths[name] > reach:
            raise InputError(f"{name}: {lengths[name]} is more than max_position_embeddings={reach} of the model")
    return Settings(
        tokenizer=tokenizer,
        labels=labels,
        problem_type=model.config.problem_type,
        token_types=any((getattr(config, "type_vocab_size", 0) or 0) > 1 for config in parts),
        seed=args.seed,
        **lengths,
    )


def scorer(task: Task, rows: datasets.Dataset, settings: Settings) -> Callable[[EvalPrediction], dict]:
    """What turns the predictions for `rows` into metrics."""
    return lambda predicted: task.score(task.answer(predicted, rows, settings), rows, settings)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code is 2 where the input is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        job = prepare(sys.argv[1:] if argv is None else argv)
    except (StrictDataclassError, ValueError, PublishError) as error:
        return refuse(error)
    try:
        job.run()
    except (InputError, PublishError) as error:
        return refuse(error)
    return 0


def refuse(error: Exception) -> int:
    """Say in one line what is wrong with the input."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
