"""Train, evaluate and predict: `seqblend train [FILE.yaml|FILE.json] [--flag value …]`, `--help` for all flags."""

import contextlib
import copy
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from seqblend.calibration.calibrator import Calibrator, read_unknown
from seqblend.checkpoints.run_directory import (
    PREDICTIONS,
    RESULTS,
    check_directory,
    check_sources,
    read_results,
)
from seqblend.checkpoints.signals import Terminated, ending, terminable
from seqblend.checkpoints.store import RunError, checkpoints_in, resume_hint
from seqblend.data.errors import InputError, error_line, print_error
from seqblend.data.locks import lock_directory
from seqblend.data.objects import json_line
from seqblend.data.splits import LabelledData, load_data
from seqblend.data.streams import RowStream
from seqblend.data.writing import atomic_writer, write_atomically
from seqblend.hub_card.card import CardData, hub_names
from seqblend.hub_card.contents import PublishError
from seqblend.hub_card.illustrate import CALIBRATION
from seqblend.hub_card.record import select_example, software_and_hardware
from seqblend.reports.data_report import DataReport, make_data_report, warn_about_leakage
from seqblend.reports.labels import warn_about_labels
from seqblend.reports.runs import Run
from seqblend.tasks.base import Task
from seqblend.tasks.encoding import Settings
from seqblend.tasks.models import position_limit, reads_token_types
from seqblend.tasks.registry import TASKS
from seqblend.tasks.splits import PREFIXES, EncodedSplit, check_metric, encode_splits, make_scorers
from seqblend.tokenization.settings import set_token_types
from seqblend.training.arguments import BlendTrainingArguments, DataArguments, ModelArguments
from seqblend.training.checks import (
    check_fitting_steps,
    check_options,
    check_packing,
    resolve_evaluation,
    resolve_generation_config,
    resolve_steps,
    wanted_checkpoint,
    wanted_splits,
)
from seqblend.training.class_weights import class_weights
from seqblend.training.command_line import card_facts, parse_arguments, public_command
from seqblend.training.defaults import (
    Defaults,
    recorded_defaults,
    resolve_evaluates,
    resolve_times,
    resolve_training,
    with_recorded,
)
from seqblend.training.encoding import make_settings, make_tokenizer
from seqblend.training.evaluation import try_generation
from seqblend.training.generation import add_end_tokens, check_generation_settings
from seqblend.training.model_defaults import resolve_model
from seqblend.training.models import (
    make_model,
    saved_labels,
    set_model_max_length,
    with_saved_problem_type,
)
from seqblend.training.progress import LogLines, limit_output, result_lines, start_logging
from seqblend.training.publisher import check_hub, check_original
from seqblend.training.run_options import BUGS, call, set_metric_direction
from seqblend.training.trainer import BlendTrainer

# The same name if the file is run as a script.
logger = logging.getLogger("seqblend.train")


@dataclass
class Job:
    """A run that has passed every check and is ready to start.

    Args:
        task: the task.
        splits: the data, as read and as encoded for the model.
        trainer: trains, evaluates and predicts.
        facts: facts about the run, for results and the card.
        calibrator: fits probabilities and thresholds after training.
        data_report: what was found in the splits; None in other than the main process.
        is_trained: whether training has ended and the model is saved.
    """

    task: Task
    splits: dict[str, EncodedSplit]
    trainer: BlendTrainer
    facts: dict[str, Any]
    calibrator: Calibrator
    data_report: DataReport | None
    is_trained: bool = False

    def run(self) -> None:
        """Train, evaluate and predict on the splits that exist; write the results, and write or push the card."""
        args = self.trainer.args
        if args.do_train:
            self.train(args.resume_from_checkpoint)
            self.write(self.data_report)
        # From here on `report` prints what there is to say.
        self.trainer.remove_callback(LogLines)
        if args.do_eval:
            self.report("eval", {**self.trainer.evaluate(), "eval_samples": len(self.splits["validation"].rows)})
        answers = self.predict() if args.do_predict else []
        if self.trainer.is_world_process_zero():
            calibration = Path(self.directory, CALIBRATION)
            if bins := self.calibrator.reliability():
                write_atomically(calibration, json.dumps(bins, indent=1) + "\n")
            elif args.do_train or args.do_predict:
                # It is about an earlier model, or other rows.
                calibration.unlink(missing_ok=True)
        self.trainer.save_metrics("run", self.facts if self.describes_model else of_evaluation(self.facts))
        if args.do_train and args.push_to_hub:
            self.trainer.push_to_hub()
        elif args.do_train:
            self.trainer.create_model_card()
        if args.do_train and (args.save_original or args.push_original):
            self.trainer.publisher.write_original()
        if answers:
            # It loads SciPy's statistics.
            from seqblend.reports.error_report import make_error_report

            run = Run(self.directory, self.task, self.trainer.scorers["test"].settings, answers)
            self.write(make_error_report(run))

    def write(self, report: Any) -> None:
        """Write a report into the directory of the run; None, in other than the main process, is not written."""
        if report is not None:
            Path(self.directory).mkdir(parents=True, exist_ok=True)
            report.write(Path(self.directory))

    def how_to_continue(self) -> str:
        """For a message: what is saved if the run ends now, and how to continue."""
        if not self.trainer.args.do_train:
            return "nothing is lost; run the same command again"
        if not self.is_trained:
            return resume_hint(self.directory)
        rest = (
            "; the same command with --resume auto does the remaining steps" if checkpoints_in(self.directory) else ""
        )
        return f"the model is trained, and saved in {self.directory}{rest}"

    @property
    def describes_model(self) -> bool:
        """Whether the facts are to be recorded as those of the model: not after an evaluation of a trained one."""
        return bool(self.trainer.args.do_train) or not Path(self.directory, "train_results.json").exists()

    @property
    def directory(self) -> str:
        """Where the run writes."""
        return self.trainer.args.output_dir

    def train(self, resume_from_checkpoint: str | None) -> None:
        """Train, save the model, and report the results."""
        result = self.trainer.train(resume_from_checkpoint=resume_from_checkpoint)
        if resume_from_checkpoint is None and self.trainer.is_world_process_zero():
            # Results of an earlier run are about another model.
            for name in RESULTS:
                Path(self.directory, name).unlink(missing_ok=True)
        # With _internal_call the model is not pushed yet: the card needs all results first.
        self.trainer.save_model(_internal_call=True)
        if self.calibrator.is_needed:
            # An error while it is fitted must not lose the trained model.
            self.calibrator.fit()
            self.trainer.save_model(_internal_call=True)
        self.trainer.save_state()
        if self.trainer.args.merge_adapter:
            self.facts["parameters"] = self.trainer.model.num_parameters()
        self.is_trained = True
        rows = self.splits["train"].rows
        samples = {} if isinstance(rows, RowStream) else {"train_samples": len(rows)}
        # If no step was left to train, the results of the run that trained the model are kept.
        nothing_left = self.trainer.state.global_step == self.trainer.progress.first_step
        earlier = read_results(Path(self.directory, "train_results.json")) if nothing_left else {}
        self.report("train", earlier or {**result.metrics, **samples})

    def predict(self) -> list[dict[str, Any]]:
        """Predict the test split and write one object per row to predictions.jsonl.

        Returns:
            The objects; none in other than the main process, and for a task without answers.
        """
        split = self.splits["test"]
        predicted = self.trainer.predict(split.features)
        self.report("test", {**predicted.metrics, "test_samples": len(split.rows)})
        if predicted.predictions is None or not self.trainer.is_world_process_zero():
            return []
        entries = []
        for row, answer in zip(split.rows, self.trainer.scorers["test"].answers, strict=True):
            inputs = [row[name] for name in self.task.inputs if name in row]
            entry = {"input": inputs[0] if len(inputs) == 1 else inputs, **answer}
            entries.append({**entry, "reference": row[self.task.reference]})
        with atomic_writer(Path(self.directory, PREDICTIONS)) as file:
            file.writelines(map(json_line, entries))
        return entries

    def report(self, split: str, metrics: dict) -> None:
        """Print the metrics of an evaluation; write {split}_results.json and all_results.json."""
        if split in PREFIXES:
            found = self.calibrator.metrics(PREFIXES[split])
            metrics = {**metrics, **{f"{split}_{name}": value for name, value in found.items()}}
        if split in PREFIXES and self.trainer.is_world_process_zero():
            print(result_lines(split, metrics, self.trainer.args.metric_for_best_model), flush=True)
        self.trainer.save_metrics(split, metrics)


def prepare(argv: list[str], stack: contextlib.ExitStack | None = None) -> Job:
    """Build a run from the command line.

    Args:
        argv: the command line.
        stack: holds the lock of output_dir until the run has ended.

    Raises:
        InputError: an option, a file or a model is wrong; the message names it.
        PublishError: the Hub cannot be used.
        OSError: output_dir cannot be created or locked.
    """
    model_args, data_args, args = parse_arguments(argv)
    check_options(model_args, data_args, args)
    set_metric_direction(args, default=None)
    resolve_generation_config(args)
    if stack is not None and args.should_save:
        stack.enter_context(lock_directory(args.output_dir))
    wanted = wanted_checkpoint(args)
    limit_output(args, stack)
    recorded = recorded_defaults(args, wanted)
    if recorded is not None:
        try:
            job = make_job(argv, *map(copy.copy, (model_args, data_args, args)), wanted, recorded)
        except InputError as error:
            # They may be the defaults of another run, which this one replaces.
            if not args.overwrite_output_dir:
                raise with_recorded(error, recorded) from error
        else:
            if job is not None:
                return job
            # What is in output_dir is of another run, or damaged. This one starts over, with its own defaults.
            wanted = None if args.overwrite_output_dir else wanted
    return make_job(argv, model_args, data_args, args, wanted, None)


def make_job(
    argv: list[str],
    model_args: ModelArguments,
    data_args: DataArguments,
    args: BlendTrainingArguments,
    wanted: str | bool | None,
    recorded: dict[str, Any] | None,
) -> Job | None:
    """Read the data, build or load the model, and make the Trainer.

    Args:
        argv: the command line.
        model_args: say what is trained; changed here.
        data_args: of the run; changed here.
        args: of the run; changed here.
        wanted: the checkpoint to resume from; True for the newest of output_dir; None for none.
        recorded: the defaults of the run that is resumed; None to choose all.

    Returns:
        The run; None if it starts over, although it has these defaults.

    Raises:
        InputError: see `prepare`.
        PublishError: see `prepare`.
    """
    task, given = TASKS[data_args.task], {**base_model_facts(model_args, args), **card_facts(data_args)}
    check_hub(args)
    path = model_args.model_name_or_path
    if path:
        data_args = with_saved_problem_type(data_args, task, path)
    rows = read_rows(data_args, args, task, path)
    resolve_steps(args, path, set(rows))
    check_fitting_steps(data_args, args, rows)
    unknown = read_unknown(data_args, task, rows)
    defaults = Defaults(args, recorded if args.do_train else None)
    resolve_evaluates(defaults, rows)
    if args.do_train:
        check_directory(args, model_args.sources(), wanted)
    is_chat = has_conversations(args, rows)
    resolve_evaluation(args, task, set(rows), data_args.pack_documents or is_chat)
    fields = resolve_model(defaults, model_args, data_args, task, rows)
    model, settings = make_model_and_settings(model_args, data_args, args, task, rows, fields)
    with args.main_process_first(desc="tokenizing"):
        splits = encode_splits(task, rows, settings, data_args.preprocessing_num_workers)
    report, leakage = report_data(task, rows, settings, splits) if args.should_log else (None, {})
    if args.do_train:
        add_end_tokens(model, task.end_tokens(rows["train"], settings))
        check_generation_settings(model)
        resolve_training(defaults, model_args, model.config, task, settings, splits)
    if line := task.describe_labels(settings):
        logger.info(line)
    if args.metric_for_best_model is not None and "validation" in splits:
        check_metric(args.metric_for_best_model, task, splits["validation"], settings)
    trainer = make_trainer(
        model=model,
        args=args,
        data_collator=task.make_collator(settings),
        train_dataset=splits["train"].features if "train" in splits else None,
        eval_dataset=splits["validation"].features if "validation" in splits else None,
        processing_class=settings.tokenizer,
        scorers=make_scorers(task, splits, settings),
        given=CardData(**given),
        preprocess_logits_for_metrics=task.logits_reducer(settings, most_sequences(splits)),
    )
    if args.do_train:
        prepare_training(trainer, wanted, model_args, defaults)
        if args.resume_from_checkpoint is None and defaults.recorded is not None:
            return None
    defaults.log(model_args)
    facts = run_facts(argv, model_args, data_args, args, model)
    # With these the card can be written again.
    facts["card_data"] = {**select_example(rows, task), **given}
    # None replaces the result of an earlier run for the same split.
    facts |= {f"{prefix}_leakage": leakage.get(name) for prefix, name in PREFIXES.items() if name in rows}
    if args.do_train and is_chat:
        facts["conversations"] = True
    calibrator = Calibrator(trainer, task, splits, unknown, data_args, settings)
    return Job(task, splits, trainer, facts, calibrator, report)


# --- The parts of prepare ---


def run_facts(
    argv: list[str],
    model_args: ModelArguments,
    data_args: DataArguments,
    args: BlendTrainingArguments,
    model: PreTrainedModel,
) -> dict[str, Any]:
    """Facts about a run that follow from its options and its model, for results and the card."""
    return {
        "command": public_command(argv, args.hub_token),
        **software_and_hardware(args),
        "parameters": model.num_parameters(),
        "recipe": model_args.origin(),
        **data_args.facts(),
        # None, too, replaces the value of an earlier evaluation.
        "decode_tags": data_args.decode_tags,
    }


def of_evaluation(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts that an evaluation changes in the directory of a training; the others are about that training."""
    return {name: value for name, value in facts.items() if name == "decode_tags" or name.endswith("_leakage")}


def report_data(
    task: Task, rows: LabelledData, settings: Settings, splits: dict[str, EncodedSplit]
) -> tuple[DataReport, dict[str, str]]:
    """Log what lies in the splits. Returns the report, and for the card the rows that are also in training."""
    report = make_data_report(task, rows, settings, splits)
    for line in report.summaries():
        logger.info(line)
    warn_about_labels(settings.labels)
    return report, warn_about_leakage(report, rows, task.inputs)


def most_sequences(splits: dict[str, EncodedSplit]) -> int:
    """The number of sequences of the largest split that is evaluated."""
    return max((len(split.features) for name, split in splits.items() if name != "train"), default=0)


def has_conversations(args: BlendTrainingArguments, rows: LabelledData) -> bool:
    """Whether the rows are conversations. Raises InputError for options that do not go with packed rows."""
    found = "messages" in next(iter(rows.values())).column_names
    if found:
        check_packing(args, "messages")
    return found


def read_rows(data_args: DataArguments, args: BlendTrainingArguments, task: Task, path: str | None) -> LabelledData:
    """Read the data; `path` is that of a saved model, which has labels. Raises InputError as load_data."""
    # The first process stores the rows, and the others find them.
    with args.main_process_first(desc="reading"):
        return load_data(
            task.schema(data_args.columns(), data_args.problem_type),
            data_args.data_options(args, wanted_splits(args)),
            saved_labels(path) if path else None,
        )


def base_model_facts(model_args: ModelArguments, args: BlendTrainingArguments) -> dict[str, list[str]]:
    """For the card: the names on the Hub of the models that the training starts from, if they have any."""
    sources = (model_args.model_name_or_path, model_args.encoder_name_or_path, model_args.decoder_name_or_path)
    names = hub_names(*sources) if args.do_train else []
    return {"base_model": names} if names else {}


def make_model_and_settings(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: BlendTrainingArguments,
    task: Task,
    rows: LabelledData,
    fields: dict[str, Any],
) -> tuple[PreTrainedModel, Settings]:
    """Build the tokenizer, the model and the settings of the task. Raises InputError for options that do not fit.

    `fields` of the model's configuration are those that were chosen for this data.
    """
    tokenizer = make_tokenizer(model_args, data_args, task, rows.get("train"))
    set_seed(args.seed)
    of_rows = {**fields, **class_weights(data_args, args, task, rows)}
    if args.do_train and rows.label_names:
        of_rows |= task.config_fields_from_rows(rows.labelled_train, rows.label_names)
    model = make_model(model_args, data_args, args, tokenizer, rows.label_names, of_rows)
    check_original(args, model_args, model, tokenizer)
    set_token_types(tokenizer, reads_token_types(model.config))
    settings = make_settings(data_args, args, task, tokenizer, rows, model)
    if args.do_train:
        longest = settings.max_source_length if task.generates else settings.max_length
        set_model_max_length(tokenizer, model_args, position_limit(model.config), longest)
    return model, settings


def make_trainer(**kwargs: Any) -> BlendTrainer:
    """The Trainer, after a check that training and evaluation can start.

    Raises:
        InputError: an option is wrong.
        PublishError: the Hub cannot be used.
    """
    try:
        trainer = BlendTrainer(**kwargs)
        if trainer.args.do_train:
            trainer.check()
        if trainer.given_generation and trainer.scorers:
            call("generation_config", try_generation, trainer)
        return trainer
    except (*BUGS, InputError, PublishError):
        raise
    except Exception as error:  # transformers, accelerate and torch raise whatever they meet
        raise InputError(error_line(error)) from error


def prepare_training(
    trainer: BlendTrainer,
    wanted: str | bool | None,
    model_args: ModelArguments,
    defaults: Defaults,
) -> None:
    """Choose the options that depend on the number of steps, and find the checkpoint to resume from.

    Args:
        trainer: of the run.
        wanted: the checkpoint to resume from; True for the newest of output_dir; None for none.
        model_args: name what the run starts from.
        defaults: of the run.

    Raises:
        InputError: the checkpoint or an option is wrong, or overwrite_output_dir would delete a file that the run
            starts from.
    """
    args = trainer.args
    resolve_times(defaults, model_args, trainer)
    args.resume_from_checkpoint = trainer.find_checkpoint(wanted, required=args.resume is None)
    if args.resume_from_checkpoint is None and args.overwrite_output_dir:
        check_sources(args, model_args.sources())


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0; 1 if the run could not continue; 2 if the input is wrong; 130 after Ctrl-C and 143 after
        SIGTERM, which both save the run.
    """
    start_logging()
    with contextlib.ExitStack() as stack, terminable():
        try:
            job = prepare(sys.argv[1:] if argv is None else argv, stack)
        except (InputError, PublishError) as error:
            return print_error(error)
        except OSError as error:
            return print_error(error, 1)
        except (KeyboardInterrupt, Terminated) as error:
            return report_signal(error, "nothing was trained yet")
        try:
            job.run()
        except (InputError, PublishError) as error:
            return print_error(error)
        except (RunError, OSError) as error:
            return print_error(
                error if isinstance(error, RunError) else OSError(f"{error}; {job.how_to_continue()}"), 1
            )
        except (KeyboardInterrupt, Terminated) as error:
            return report_signal(error, job.how_to_continue())
    return 0


def report_signal(error: BaseException, state: str) -> int:
    """Print which signal ended the run, unless the Trainer has. Returns the exit code that a shell reports."""
    name, code = ending(error)
    if not error.args:
        print(f"{name}: {state}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
