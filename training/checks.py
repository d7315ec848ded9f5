"""Checks of options before a run starts, and the options that follow from others."""

import math
import os
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from transformers import GenerationConfig, Seq2SeqTrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..checkpoints.averaging import check_averaging
from ..checkpoints.faults import STATE
from ..configuration.checks import unknown_name_message
from ..data.columns import STEPS
from ..data.errors import NEAREST, InputError, check_choice, nearest_first
from ..scoring.tags import resolve_decoding
from ..tasks.base import Task
from ..tasks.encoding import MAX_LENGTH
from ..tasks.registry import TASKS, tasks_with
from ..tasks.sequence_classification import REGRESSION, SEVERAL
from ..tasks.windows import OVERFLOW_STRATEGIES
from .adapters import import_peft
from .arguments import F1, BlendTrainingArguments, DataArguments, ModelArguments
from .command_line import parse_pairs
from .generation import generation_settings, load_generation_config
from .run_options import check_device, divides_weights

# Ranges of numeric options: the rule for messages, its test, and the options. None is always valid.
NUMBERS: list[tuple[str, Callable[[float], bool], tuple[str, ...]]] = [
    (
        "a number of 0 or more",
        lambda value: 0 <= value < math.inf,
        (
            *("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "dataloader_num_workers", "overlap"),
            *("eval_delay", "neftune_noise_alpha"),
        ),
    ),
    (
        "a number above 0",
        lambda value: 0 < value < math.inf,
        ("num_train_epochs", "lora_alpha", "eval_steps", "logging_steps", "save_steps"),
    ),
    ("-1, or 1 or more", lambda value: value == -1 or value >= 1, ("max_steps",)),
    (
        "1 or more",
        lambda value: value >= 1,
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "max_tokens_per_batch",
            "gradient_accumulation_steps",
            "eval_accumulation_steps",
            "generation_num_beams",
            "early_stopping_patience",
            "preprocessing_num_workers",
            "lora_rank",
        ),
    ),
    (
        f"from 2 to {MAX_LENGTH}",
        lambda value: 2 <= value <= MAX_LENGTH,
        ("max_length", "max_source_length", "max_target_length", "generation_max_length"),
    ),
    ("above 0 and below 1", lambda value: 0 < value < 1, ("mask_probability", "abstain_precision")),
    ("1 or more", lambda value: 1 <= value < math.inf, ("mean_span_length",)),
    # The seeds that NumPy's generator accepts.
    ("between 0 and 4294967295", lambda value: 0 <= value < 2**32, ("seed", "data_seed")),
]

# Options of DataArguments that are fitted on the validation split after training.
FITTED = ("calibrate", "label_thresholds", "abstain_precision", "validation_unknown_file")

# Options of DataArguments that only some tasks have.
TASK_OPTIONS = sorted({option for task in TASKS.values() for option in task.options})


def check_options(model_args: ModelArguments, data_args: DataArguments, args: BlendTrainingArguments) -> None:
    """Check the options, so that a wrong one stops the run before it starts.

    Raises:
        InputError: an option has a wrong value, contradicts another, or has no effect.
    """
    options = {**vars(model_args), **vars(data_args), **vars(args)}
    for rule, holds, names in NUMBERS:
        for name in names:
            if options[name] is not None and not holds(options[name]):
                raise InputError(f"{name}: must be {rule}, got {options[name]}")
    check_models(model_args, data_args)
    for name in ("tokenizer_type", "tokenizer_normalization", "vocab_size"):
        if name in args.given_options and getattr(model_args, name) is not None and model_args.saved_tokenizer:
            raise InputError(f"{name}: is for a new tokenizer, but {model_args.saved_tokenizer} has one")
    check_lora(model_args, args)
    check_calibration(TASKS[data_args.task], data_args, model_args, args)
    check_batches(args)
    check_streaming(model_args, data_args, args)
    if data_args.pack_documents:
        check_packing(args, "pack_documents")
    check_device(args)
    check_stopping(args, is_resolved=False)
    check_averaging(args)
    check_output(args.output_dir)
    check_reporters(args.report_to)
    if args.torch_compile_backend is not None:
        known = [backend.value.lower() for backend in DynamoBackend]
        check_choice("torch_compile_backend", args.torch_compile_backend.lower(), known)
    if args.push_original and args.push_to_hub:
        raise InputError(
            "push_original: cannot be combined with push_to_hub: both push a model to the same repository"
        )
    if args.allow_changed and args.resume is None and args.resume_from_checkpoint is None:
        raise InputError("allow_changed: needs --resume auto or --resume_from_checkpoint")


def check_generation(config: GenerationConfig) -> None:
    """Raises InputError for a setting that transformers does not know."""
    known = vars(GenerationConfig())
    for name in generation_settings(config):
        if name not in known:
            nearest = ", ".join(nearest_first(name, known)[:NEAREST])
            raise InputError(f"generation_config: unknown setting {name!r}; valid, nearest first: {nearest}")


def check_models(model_args: ModelArguments, data_args: DataArguments) -> None:
    """Raises InputError for an unknown task, and for options that contradict each other or have no effect."""
    if data_args.task is None:
        raise InputError(f"task: is missing; give one of {', '.join(TASKS)}")
    if data_args.task not in TASKS:
        raise InputError(unknown_name_message("task", data_args.task, list(TASKS)))
    if model_args.model_name_or_path and model_args.recipe:
        raise InputError("recipe: model_name_or_path names a saved model, which needs no recipe; give one of the two")
    check_parts(model_args)
    task = TASKS[data_args.task]
    for name in TASK_OPTIONS:
        if getattr(data_args, name) and name not in task.options:
            raise InputError(f"{name}: is for task {' or '.join(tasks_with(name))}, not {task.name}")
    check_columns(task, data_args)
    for name in ("max_source_length", "max_target_length"):
        if getattr(data_args, name) is not None and not task.generates:
            able = ", ".join(each.name for each in TASKS.values() if each.generates)
            raise InputError(f"{name}: is for task {able}; {task.name} has max_length")
    for name in ("source_lang", "target_lang"):
        if getattr(model_args, name) is not None and not model_args.saved_tokenizer:
            raise InputError(f"{name}: is for a saved tokenizer, which a saved model or tokenizer_name_or_path gives")
    if data_args.class_weights and "class_weights" in parse_pairs(model_args.config_overrides, "config_overrides"):
        raise InputError("class_weights: config_overrides has them too; give one of the two")
    check_overflow(task, data_args.overflow, data_args.overlap)
    resolve_decoding(data_args.decode_tags)
    if data_args.bleu_tokenize is not None:
        # Imported here, because it loads the metric libraries.
        from ..scoring.metrics import make_bleu

        make_bleu(data_args.bleu_tokenize)


def check_columns(task: Task, data_args: DataArguments) -> None:
    """Raises InputError for the name of a column that the task does not read."""
    read = task.schema(problem_type=data_args.problem_type).kinds
    for name, given in vars(data_args.columns()).items():
        if given not in (None, name) and name not in read:
            flags = ", ".join(f"{each}_column" for each in read)
            raise InputError(f"{name}_column: is not for task {task.name}, which has {flags}")


def check_calibration(
    task: Task, data_args: DataArguments, model_args: ModelArguments, args: BlendTrainingArguments
) -> None:
    """Raises InputError for options of calibration and thresholds that have no effect or do not go together."""
    problem_type = task.resolve_problem_type(data_args.problem_type)
    for name in (*FITTED, "unknown_label") if divides_weights(args) else ():
        if getattr(data_args, name):
            raise InputError(f"{name}: cannot be combined with fsdp or deepspeed, which divide the weights")
    for name in FITTED:
        if getattr(data_args, name) and model_args.lora_rank is not None and not args.merge_adapter:
            raise InputError(f"{name}: changes the whole model, not an adapter; add --merge_adapter true")
        if getattr(data_args, name) and (args.bf16_full_eval or args.fp16_full_eval):
            raise InputError(f"{name}: cannot be combined with bf16_full_eval or fp16_full_eval")
    if data_args.calibrate and problem_type == REGRESSION:
        raise InputError("calibrate: a regression has no probabilities")
    given = data_args.label_thresholds
    if given is not None and problem_type != SEVERAL:
        raise InputError(f"label_thresholds: is for problem_type {SEVERAL}, and this run has {problem_type}")
    if given is not None and given != F1 and not is_share(given):
        raise InputError(f"label_thresholds: must be {F1}, or a precision above 0 and below 1, got {given!r}")
    for name in ("abstain_precision", "unknown_label", "validation_unknown_file", "test_unknown_file"):
        if getattr(data_args, name) and problem_type in (SEVERAL, REGRESSION):
            raise InputError(f"{name}: is for a single label, and this run has problem_type {problem_type}")


def is_share(text: str) -> bool:
    """Whether a text is a number above 0 and below 1."""
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def check_fitting_steps(data_args: DataArguments, args: Seq2SeqTrainingArguments, splits: Collection[str]) -> None:
    """Raises InputError for options that are fitted after training, or measured, where that step is missing."""
    for name in FITTED:
        if getattr(data_args, name) and not (args.do_train and "validation" in splits):
            missing = "no validation split" if args.do_train else "no training"
            raise InputError(f"{name}: is fitted on the validation split after training, and there is {missing}")
    if data_args.test_unknown_file and not args.do_predict:
        raise InputError("test_unknown_file: is measured with the test split, and that is not predicted")


def check_overflow(task: Task, overflow: str, overlap: int | None) -> None:
    """Raises InputError for windows in a task without them, and for an overlap without windows."""
    check_choice("overflow", overflow, OVERFLOW_STRATEGIES)
    if overflow == "window" and not task.has_windows:
        able = ", ".join(name for name, each in TASKS.items() if each.has_windows)
        raise InputError(f"overflow: window is for {able}, not for {task.name}")
    if overlap is not None and overflow != "window":
        raise InputError(f"overlap: {overlap} is for overflow=window, but overflow is {overflow}")


def check_parts(model_args: ModelArguments) -> None:
    """Raises InputError for only one of a saved encoder and a saved decoder, and for options that contradict them."""
    given = {name: getattr(model_args, name) for name in ("encoder_name_or_path", "decoder_name_or_path")}
    if not any(given.values()):
        return
    for name, path in given.items():
        if not path:
            raise InputError(f"{name}: is missing; a saved encoder and a saved decoder are given together")
    for name in ("model_name_or_path", "recipe"):
        if getattr(model_args, name):
            raise InputError(f"{name}: encoder_name_or_path names what the model is made from; give one of the two")
    if model_args.architecture not in (None, "encoder-decoder"):
        raise InputError(
            f"architecture: {model_args.architecture}, but encoder_name_or_path and decoder_name_or_path make an "
            "encoder-decoder"
        )


def check_lora(model_args: ModelArguments, args: BlendTrainingArguments) -> None:
    """Check the options of LoRA.

    Raises:
        InputError: an option has no effect, contradicts another, or needs peft, which is not installed.
    """
    if model_args.lora_rank is None:
        options = {**vars(model_args), "merge_adapter": args.merge_adapter}
        for name in ("lora_alpha", "lora_target", "merge_adapter"):
            if options[name]:
                raise InputError(f"{name}: has no effect without --lora_rank")
        return
    if not model_args.model_name_or_path:
        given = "encoder_name_or_path" if model_args.encoder_name_or_path else "a recipe"
        raise InputError(
            f"lora_rank: needs model_name_or_path; LoRA leaves the weights as they are, and those of a model from "
            f"{given} are random"
        )
    for flag in ("merge_adapter", "save_original"):
        if getattr(args, flag) and divides_weights(args):
            raise InputError(f"{flag}: cannot be combined with fsdp or deepspeed, which divide the weights")
    for flag in ("push_to_hub", "push_original"):
        if getattr(args, flag) and not args.merge_adapter:
            raise InputError(f"{flag}: adapters are not pushed; add --merge_adapter true to push the whole model")
    if args.push_to_hub and args.hub_strategy in ("checkpoint", "all_checkpoints"):
        raise InputError(
            f"hub_strategy: {args.hub_strategy.value} pushes checkpoints, but with lora_rank checkpoints hold "
            "adapters, which are not pushed; use end"
        )
    import_peft("lora_rank")


def check_batches(args: BlendTrainingArguments) -> None:
    """Raises InputError for options that contradict max_tokens_per_batch, if it is given."""
    if args.max_tokens_per_batch is None:
        return
    accelerator = args.accelerator_config
    by_rows = accelerator.split_batches or accelerator.dispatch_batches
    others = {
        "auto_find_batch_size": (args.auto_find_batch_size, "which decides the number of rows in a batch"),
        "dataloader_drop_last": (args.dataloader_drop_last, "which has no incomplete batch to drop"),
        "train_sampling_strategy": (args.train_sampling_strategy != "random", "which decides which rows form a batch"),
        "accelerator_config": (
            by_rows,
            "because split_batches and dispatch_batches need the same number of rows in each batch",
        ),
    }
    for name, (is_given, reason) in others.items():
        if is_given:
            raise InputError(f"{name}: does not go together with max_tokens_per_batch, {reason}; give one of the two")
    if args.n_gpu > 1:
        raise InputError(
            f"max_tokens_per_batch: one process would split the rows of its batches among {args.n_gpu} GPUs; "
            "start one process per GPU, with torchrun"
        )


def check_packing(args: BlendTrainingArguments, name: str) -> None:
    """Raises InputError for options that would split packed rows; `name` is why they are packed."""
    if args.accelerator_config.dispatch_batches or args.n_gpu > 1:
        raise InputError(f"{name}: a batch is one row, which cannot be split; start one process per GPU")


def check_streaming(model_args: ModelArguments, data_args: DataArguments, args: BlendTrainingArguments) -> None:
    """Raises InputError for options that streaming needs, and for options that need all rows, if it is asked for."""
    if not data_args.streaming:
        return
    if args.max_steps < 1:
        raise InputError("max_steps: is needed with streaming, because the length of an epoch is unknown")
    if not model_args.saved_tokenizer:
        raise InputError("tokenizer_name_or_path: is needed with streaming; only stored rows can train a tokenizer")
    others = {
        "max_train_samples": (data_args.max_train_samples, "draws from all rows"),
        "max_tokens_per_batch": (args.max_tokens_per_batch, "sorts all rows by length"),
        "train_sampling_strategy": (args.train_sampling_strategy != "random", "decides the order of all rows"),
        "dataloader_num_workers": (args.dataloader_num_workers, "would read every row in each worker"),
    }
    for name, (is_given, reason) in others.items():
        if is_given:
            raise InputError(f"{name}: does not go together with streaming: it {reason}")


def check_stopping(args: BlendTrainingArguments, is_resolved: bool = True) -> None:
    """Raises InputError for early_stopping_patience or save_strategy=best without the options that they need.

    Args:
        args: the options.
        is_resolved: whether defaults have been chosen; otherwise only what the user gave can be wrong.
    """
    needed = {
        "eval_strategy": args.eval_strategy.value != "no",
        "load_best_model_at_end": args.load_best_model_at_end,
        "metric_for_best_model": args.metric_for_best_model,
    }
    missing = [name for name, given in needed.items() if not given and (is_resolved or name in args.given_options)]
    if missing and args.early_stopping_patience is not None:
        hint = "" if {*missing} & args.given_options else "; with a validation split these are the defaults"
        raise InputError(f"early_stopping_patience: needs {' and '.join(missing)} too{hint}")
    missing = [name for name in missing if name != "load_best_model_at_end"]
    if missing and args.save_strategy == SaveStrategy.BEST:
        raise InputError(f"save_strategy: best needs {' and '.join(missing)} too")


def check_output(output_dir: str) -> None:
    """Raises InputError for a directory that cannot be created or written to.

    It is tested with a temporary file, without a name where the system has that, in the lowest directory that exists.
    """
    if not output_dir:
        raise InputError("output_dir: is empty")
    path = Path(output_dir).absolute()
    # Path.exists raises if a directory above may not be entered.
    existing = next(each for each in (path, *path.parents) if os.path.exists(each))
    if not existing.is_dir():
        raise InputError(f"output_dir: {existing} is a file")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"output_dir: {existing} cannot be written to ({error.strerror})") from error


def check_reporters(names: list[str]) -> None:
    """Raises InputError for a tracker that transformers does not know, or that is not installed."""
    for name in names:
        try:
            for reporter in get_reporting_integration_callbacks([name]):
                reporter()
        except Exception as error:  # the libraries of trackers raise whatever they meet
            raise InputError(f"report_to: {error}") from error


def resolve_generation_config(args: BlendTrainingArguments) -> None:
    """Replace generation_config by the settings that it names.

    Raises:
        InputError: they cannot be loaded, transformers does not know one of them, or the length is given twice.
    """
    if args.generation_config is None:
        return
    if isinstance(args.generation_config, str | Path):
        args.generation_config = Path(args.generation_config).expanduser()
    try:
        config = load_generation_config(args.generation_config)
    except Exception as error:  # transformers raises whatever it meets
        raise InputError(f"generation_config: {args.generation_config} cannot be loaded: {error}") from error
    check_generation(config)
    if args.generation_max_length is not None and config.max_new_tokens is not None:
        raise InputError("generation_max_length: generation_config has max_new_tokens; give one of the two")
    args.generation_config = config


def wanted_checkpoint(args: BlendTrainingArguments) -> str | bool | None:
    """The checkpoint to resume from.

    Returns:
        A path; True for the newest good one of output_dir; None for none.

    Raises:
        InputError: both resume and resume_from_checkpoint are given, or the path is no checkpoint.
    """
    given = args.resume_from_checkpoint
    if args.resume is not None:
        check_choice("resume", args.resume, ["auto"])
        if given is not None:
            raise InputError(f"resume: looks for a checkpoint, but resume_from_checkpoint is {given}; give only one")
        return True
    if given in ("true", "True"):
        return True
    if given in (None, "false", "False", "no"):
        return None
    given = os.path.expanduser(given)
    if not Path(given, STATE).exists():
        raise InputError(f"resume_from_checkpoint: {given} is no checkpoint")
    return given


def wanted_splits(args: BlendTrainingArguments) -> list[str]:
    """The splits to read if they exist: those of the steps in `resolve_steps`, and of evaluations during training."""
    given = {split: getattr(args, flag) for split, flag in STEPS.items()}
    wanted = [split for split in given if given[split] or (given[split] is None and not any(given.values()))]
    # Without an eval_strategy a run evaluates, unless do_eval is false.
    by_default = "eval_strategy" not in args.given_options and args.do_eval is not False
    evaluates = args.eval_strategy.value != "no" or args.eval_on_start or by_default
    if "train" in wanted and evaluates and "validation" not in wanted:
        wanted.append("validation")
    return wanted


def resolve_steps(args: Seq2SeqTrainingArguments, model: str | None, splits: set[str]) -> None:
    """Set do_train, do_eval and do_predict where the user has not.

    If the user asked for any of them, the others are False; otherwise each is True if its split exists.

    Args:
        args: the options; a step is None if the user has not given it.
        model: the path of a saved model; None without one.
        splits: the splits that exist.

    Raises:
        InputError: a step needs a split that does not exist, no step is left, or there is no model.
    """
    asked = any(getattr(args, flag) for flag in STEPS.values())
    for split, flag in STEPS.items():
        if getattr(args, flag) is None:
            setattr(args, flag, split in splits and not asked)
        if getattr(args, flag) and split not in splits:
            raise InputError(f"{flag}: there is no {split} split; {split}_file or {split}_split names one")
    if not any(getattr(args, flag) for flag in STEPS.values()):
        raise InputError(
            f"{', '.join(STEPS.values())}: nothing is left to do with the data, {', '.join(sorted(splits))}"
        )
    originals = [flag for flag in ("save_original", "push_original") if getattr(args, flag)]
    if originals and not args.do_train:
        raise InputError(f"{originals[0]}: nothing is trained; to convert a saved model, use seqblend convert")
    if args.push_to_hub and not args.do_train:
        raise InputError("push_to_hub: nothing is trained; to push a saved model, use seqblend publish")
    if not args.do_train and not model:
        raise InputError("model_name_or_path: nothing is trained (do_train, train_file), and no saved model is named")


def resolve_evaluation(args: BlendTrainingArguments, task: Task, splits: set[str], is_packed: bool) -> None:
    """Set the options of evaluation that depend on the task.

    Args:
        args: changed here.
        task: of the run.
        splits: the splits that exist.
        is_packed: whether batches are rows of packed documents, without padding and without an attention_mask.

    Raises:
        InputError: a flag asks for evaluation, and there is no validation split.
    """
    if not args.do_train:
        # These evaluations happen during training.
        args.eval_strategy, args.eval_on_start, args.load_best_model_at_end = IntervalStrategy.NO, False, False
    evaluations: dict[str, Any] = {"eval_strategy": args.eval_strategy.value, "eval_on_start": args.eval_on_start}
    for flag, value in evaluations.items():
        if value not in ("no", False) and "validation" not in splits:
            raise InputError(
                f"{flag}: {value}, but there is no validation split; validation_file or validation_split names one"
            )
    # The task decides how predictions are made and passed to the metrics; language models have only a loss.
    args.predict_with_generate, args.label_names = task.generates, ["labels"]
    args.eval_do_concat_batches, args.batch_eval_metrics = True, False
    args.prediction_loss_only = args.prediction_loss_only or not task.has_answers
    args.dataloader_pin_memory = args.dataloader_pin_memory and torch.accelerator.is_available()
    if args.include_num_input_tokens_seen == "no":
        # The card shows the number of tokens seen. Without a mask transformers looks for the padding token, which may
        # also be that which ends a document.
        args.include_num_input_tokens_seen = "all" if is_packed else "non_padding"
