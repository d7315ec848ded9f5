"""Train, evaluate and predict: `python train.py [FILE.yaml|FILE.json] [--flag value …]`, `--help` for all flags."""

import contextlib
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Seq2SeqTrainingArguments, set_seed

from seqblend.checkpoints.run_directory import RESULTS, check_directory, check_sources, read_results
from seqblend.checkpoints.signals import Terminated, ending, terminable
from seqblend.checkpoints.store import RunError, checkpoints_in, resume_hint
from seqblend.data.errors import InputError, in_one_line, refuse
from seqblend.data.leakage import warn_of_leakage
from seqblend.data.locks import locked
from seqblend.data.objects import json_line
from seqblend.data.splits import SPLITS, LabelledData, load_data
from seqblend.data.streams import RowStream
from seqblend.data.writing import replacing
from seqblend.hub_card.card import Given
from seqblend.hub_card.contents import PublishError
from seqblend.hub_card.publish import Destination, check_access
from seqblend.hub_card.record import hardware, shown_example, versions
from seqblend.tasks.base import (
    PREFIXES,
    TASKS,
    Task,
    answer_rows,
    check_metric,
    encode_splits,
    make_collator,
    scorers_of,
    without_document,
)
from seqblend.tasks.encoding import Settings
from seqblend.training.arguments import DataArguments, card_facts, parse_arguments, public_command
from seqblend.training.checks import (
    check_options,
    finish_arguments,
    settle_steps,
    wanted_checkpoint,
    wanted_splits,
)
from seqblend.training.class_weights import class_weights
from seqblend.training.models import (
    check_reach,
    make_model,
    reach_of,
    reads_token_types,
    set_model_max_length,
    take_labels,
)
from seqblend.training.progress import hide_bars
from seqblend.training.tokenizers import make_tokenizer, set_token_types
from seqblend.training.trainer import BlendTrainer

# By this name where it runs as a script, too.
logger = logging.getLogger("seqblend.train")


# transformers' default, which of a short run logs nothing.
MOST_LOGGING_STEPS = 500


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
        is_trained: training is over, and the model is saved.
    """

    task: Task
    rows: datasets.DatasetDict
    encoded: datasets.DatasetDict
    settings: Settings
    model: PreTrainedModel
    trainer: BlendTrainer
    facts: dict[str, Any]
    is_trained: bool = False

    def run(self) -> None:
        """Train, evaluate and predict on the splits that exist; write the results and a card, or push all."""
        args = self.trainer.args
        if args.do_train:
            self.train(args.resume_from_checkpoint)
        if args.do_eval:
            self.report("eval", {**self.trainer.evaluate(), "eval_samples": len(self.rows["validation"])})
        if args.do_predict:
            self.predict()
        self.trainer.save_metrics("run", self.facts)
        if args.do_train and args.push_to_hub:
            self.trainer.push_to_hub()
        elif args.do_train:
            self.trainer.create_model_card()

    def way_on(self) -> str:
        """What is safe when the run is ended from outside, and how to go on."""
        if not self.trainer.args.do_train:
            return "nothing is lost; the same command does it again"
        if not self.is_trained:
            return resume_hint(self.directory)
        rest = "; the same command with --resume auto does what is left" if checkpoints_in(self.directory) else ""
        return f"the model is trained, and saved in {self.directory}{rest}"

    @property
    def directory(self) -> str:
        """Where the run writes."""
        return self.trainer.args.output_dir

    def train(self, resume_from_checkpoint: str | None) -> None:
        """Train, save the model, and report how it went."""
        result = self.trainer.train(resume_from_checkpoint=resume_from_checkpoint)
        if resume_from_checkpoint is None and self.trainer.is_world_process_zero():
            # What stands there is of an earlier run, and tells of another model.
            for name in RESULTS:
                Path(self.directory, name).unlink(missing_ok=True)
        # It is pushed when everything is measured.
        self.trainer.save_model(_internal_call=True)
        self.trainer.save_state()
        self.is_trained = True
        stored = {} if isinstance(self.rows["train"], RowStream) else {"train_samples": len(self.rows["train"])}
        # Where nothing was left to train, the results are those of the run that trained it.
        is_finished = self.trainer.state.global_step == self.trainer.progress.first_step
        known = read_results(Path(self.directory, "train_results.json")) if is_finished else {}
        self.report("train", known or {**result.metrics, **stored})

    def predict(self) -> None:
        """Predict the test split and write one object a row to predictions.jsonl."""
        predicted = self.trainer.predict(without_document(self.encoded["test"]))
        self.report("test", {**predicted.metrics, "test_samples": len(self.rows["test"])})
        if predicted.predictions is None or not self.trainer.is_world_process_zero():
            return
        answers = answer_rows(self.task, predicted, self.rows["test"], self.encoded["test"], self.settings)
        with replacing(Path(self.directory, "predictions.jsonl")) as file:
            for row, answer in zip(self.rows["test"], answers, strict=True):
                inputs = [row[name] for name in self.task.inputs if name in row]
                entry = {"input": inputs[0] if len(inputs) == 1 else inputs, **answer}
                entry["reference"] = row[self.task.reference]
                file.write(json_line(entry))

    def report(self, split: str, metrics: dict) -> None:
        """Print metrics and write {split}_results.json and all_results.json."""
        self.trainer.log_metrics(split, metrics)
        self.trainer.save_metrics(split, metrics)


def prepare(argv: list[str], stack: contextlib.ExitStack | None = None) -> Job:
    """From the command line to a run that is ready to start.

    Args:
        argv: the command line.
        stack: holds the lock of output_dir, from before anything there is looked at until the run has ended.

    Raises:
        InputError: something the user said or gave is wrong; the message names it.
        ValueError: an option of the model is wrong.
        PublishError: the Hub cannot be used.
        OSError: output_dir cannot be created or locked.
    """
    model_args, data_args, training_args = parse_arguments(argv)
    check_options(model_args, data_args, training_args)
    if stack is not None and training_args.should_save:
        stack.enter_context(locked(training_args.output_dir))
    wanted = wanted_checkpoint(training_args)
    if training_args.disable_tqdm or not sys.stderr.isatty():
        hide_bars()
    if not training_args.should_log:
        # What it says, the main process says too.
        logging.getLogger("seqblend").setLevel(logging.ERROR)
    task = TASKS[data_args.task]
    given = card_facts(data_args)
    check_hub(training_args)
    path = model_args.model_name_or_path
    known = take_labels(data_args, path) if path else None
    # What the first process has stored, the others find.
    with training_args.main_process_first(desc="reading"):
        rows = read_rows(data_args, training_args, known)
    settle_steps(training_args, path, set(rows))
    if training_args.do_train:
        check_directory(training_args, model_args.sources(), wanted)
    finish_arguments(training_args, task, set(rows))
    leakage = warn_of_leakage(rows, task.inputs) if training_args.should_log else {}
    tokenizer = make_tokenizer(model_args, data_args, rows.get("train"), task.has_sentinels)
    set_seed(training_args.seed)
    weights = class_weights(data_args, training_args, rows)
    model = make_model(model_args, data_args, training_args, tokenizer, rows.label_names, weights)
    set_token_types(tokenizer, reads_token_types(model.config))
    settings = make_settings(data_args, training_args, tokenizer, rows, model)
    if training_args.do_train:
        longest = settings.max_source_length if task.generates else settings.max_length
        set_model_max_length(tokenizer, model_args, reach_of(model.config), longest)
    with training_args.main_process_first(desc="tokenizing"):
        encoded = encode_splits(task, rows, settings, data_args.preprocessing_num_workers)
    if task.describe is not None:
        logger.info(task.describe(settings.labels))
    if training_args.metric_for_best_model is not None and "validation" in rows:
        name = training_args.metric_for_best_model
        check_metric(name, task, rows["validation"], encoded["validation"], settings)
    inputs = {split: without_document(encoded[split]) for split in encoded}
    trainer = make_trainer(
        model=model,
        args=training_args,
        data_collator=make_collator(task, settings),
        train_dataset=inputs.get("train"),
        eval_dataset=inputs.get("validation"),
        processing_class=tokenizer,
        scorers=scorers_of(task, rows, encoded, settings),
        given=Given(**given),
        preprocess_logits_for_metrics=task.reduce,
    )
    if training_args.do_train:
        if training_args.chooses_logging_steps:
            training_args.logging_steps = choose_logging_steps(trainer)
        checkpoint = trainer.find_checkpoint(wanted, required=training_args.resume is None)
        training_args.resume_from_checkpoint = checkpoint
        if checkpoint is None and training_args.overwrite_output_dir:
            check_sources(training_args, model_args.sources())
    facts = {
        "command": public_command(argv, training_args.hub_token),
        **software_and_hardware(training_args),
        "parameters": model.num_parameters(),
        # From which the card can be made again.
        "card_data": {**shown_example(rows, task), **given},
        "recipe": model_args.origin(),
        # None takes the place of what was said of the rows that were measured before.
        **{f"{prefix}_leakage": leakage.get(split) for prefix, split in PREFIXES.items() if split in rows},
        **data_args.facts(),
    }
    return Job(task, rows, encoded, settings, model, trainer, facts)


def software_and_hardware(args: Seq2SeqTrainingArguments) -> dict[str, str]:
    """The versions of the packages, and the machine, for the results."""
    return {
        "versions": ", ".join(f"{package} {number}" for package, number in versions().items()),
        "machine": hardware(args),
    }


def check_hub(args: Seq2SeqTrainingArguments) -> None:
    """Raises PublishError where the run is to be pushed, and the Hub cannot be used."""
    if args.push_to_hub:
        name = args.hub_model_id or Path(args.output_dir).absolute().name
        check_access(Destination(name, token=args.hub_token))


def read_rows(data_args: DataArguments, args: Seq2SeqTrainingArguments, known: list[str] | None) -> LabelledData:
    """The splits that exist and are used, checked, with standard column names; `known` are the labels of the model."""
    return load_data(
        data_args.task,
        train_file=data_args.files("train"),
        validation_file=data_args.files("validation"),
        test_file=data_args.files("test"),
        reading=data_args.reading(),
        dataset_name=data_args.dataset_name,
        dataset_config_name=data_args.dataset_config_name,
        columns=data_args.columns(),
        problem_type=data_args.problem_type,
        max_train_samples=data_args.max_train_samples,
        max_eval_samples=data_args.max_eval_samples,
        seed=args.seed,
        splits=wanted_splits(args),
        split_names={split: getattr(data_args, f"{split}_split") for split in SPLITS},
        known=known,
        streaming=data_args.streaming,
        data_seed=args.data_seed,
    )


def make_settings(
    data_args: DataArguments,
    args: Seq2SeqTrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    rows: LabelledData,
    model: PreTrainedModel,
) -> Settings:
    """What the task needs to know of this run. Raises InputError for a length that learned positions do not reach."""
    lengths = data_args.lengths()
    used = {name: lengths[name] for name in lengths if (name == "max_length") != TASKS[data_args.task].generates}
    if TASKS[data_args.task].generates and args.generation_max_length is not None:
        used["generation_max_length"] = args.generation_max_length - 1  # the last token is not read
    if args.generation_config is not None:
        written = (args.generation_config.max_new_tokens or 0, (args.generation_config.max_length or 0) - 1)
        used["generation_config"] = max(written)
    check_reach(model.config, used)
    return Settings(
        tokenizer=tokenizer,
        labels=rows.label_names,
        where=rows.where,
        problem_type=model.config.problem_type,
        token_types=reads_token_types(model.config),
        seed=args.seed,
        overflow=data_args.overflow,
        overlap=data_args.overlap,
        noise=data_args.noise(),
        pack_documents=data_args.pack_documents,
        bleu_tokenize=data_args.bleu_tokenize,
        **lengths,
    )


def make_trainer(**kwargs: Any) -> BlendTrainer:
    """The Trainer, which could train.

    Raises:
        InputError: an option is wrong.
        PublishError: the Hub cannot be used.
    """
    try:
        trainer = BlendTrainer(**kwargs)
        if trainer.args.do_train:
            trainer.check()
        return trainer
    except Exception as error:  # transformers raises whatever it meets
        raise error if isinstance(error, InputError | PublishError) else InputError(in_one_line(error)) from error


def choose_logging_steps(trainer: BlendTrainer) -> int:
    """How many steps a line of the log is of: there are about 20 lines, which make a learning curve, or more."""
    args, steps = trainer.args, trainer.args.max_steps
    if steps <= 0:
        steps = int(args.num_train_epochs * len(trainer.train_dataset) / trainer.get_total_train_batch_size(args))
    return min(max(1, steps // 20), MOST_LOGGING_STEPS)


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0; 1 where a run could not go on; 2 where the input is wrong; 130 after Ctrl-C. Of a run that
        SIGTERM ended, which was saved as after Ctrl-C, it is 143.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with contextlib.ExitStack() as stack, terminable():
        try:
            job = prepare(sys.argv[1:] if argv is None else argv, stack)
        except (StrictDataclassError, ValueError, PublishError) as error:
            return refuse(error)
        except OSError as error:
            return refuse(error, 1)
        except (KeyboardInterrupt, Terminated) as error:
            return report_signal(error, "nothing was trained yet")
        try:
            job.run()
        except (InputError, PublishError) as error:
            return refuse(error)
        except (RunError, OSError) as error:
            return refuse(error if isinstance(error, RunError) else OSError(f"{error}; {job.way_on()}"), 1)
        except (KeyboardInterrupt, Terminated) as error:
            return report_signal(error, job.way_on())
    return 0


def report_signal(error: BaseException, way_on: str) -> int:
    """Say in one line what a signal ended, unless the Trainer has said it; the exit code is that of a shell."""
    name, code = ending(error)
    if not error.args:
        print(f"{name}: {way_on}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
