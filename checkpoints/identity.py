"""The identity of a run: all facts that its steps depend on, saved in each checkpoint and compared on resume."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments
from transformers.trainer_utils import has_length

from ..data.errors import NEAREST, InputError, nearest_first
from ..data.objects import load_object
from ..data.streams import RowStream
from ..hub_card.record import format_value
from .faults import IDENTITY

Facts = dict[str, Any]
# The number of rows that are hashed at a time.
BLOCK_ROWS = 10_000
# About the number of values of each frozen weight that are hashed.
SAMPLED = 64
# The most characters of a value in a message.
SHOWN = 60

# Options that are not recorded: paths, reporting, publishing, and how a run is started.
NOT_RECORDED = {
    *("output_dir", "run_name", "project", "report_to", "debug", "disable_tqdm", "local_rank", "deepspeed", "use_cpu"),
    *("log_level", "log_level_replica", "log_on_each_node", "skip_memory_metrics", "generation_config"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "push_to_hub"),
    *("save_original", "push_original", "quiet"),
    *("hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
    *("do_train", "do_eval", "do_predict", "resume_from_checkpoint", "resume", "overwrite_output_dir"),
    *("allow_changed", "restore_callback_states_from_checkpoint", "enable_jit_checkpoint", "ddp_timeout"),
    *("save_on_each_node", "dataloader_pin_memory", "merge_adapter"),
}
LENGTH = ("num_train_epochs", "max_steps")
# Options that may change on resume, with a line in the log for each: the length of the run; what is logged, evaluated
# and saved; how rows are read; what saves memory and computes the same.
FREE = {
    *LENGTH,
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter"),
    *("include_num_input_tokens_seen", "include_for_metrics", "batch_eval_metrics", "eval_strategy", "eval_steps"),
    *("eval_delay", "eval_on_start", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object"),
    *("per_device_eval_batch_size", "prediction_loss_only", "predict_with_generate", "bf16_full_eval"),
    *("fp16_full_eval", "generation_max_length", "generation_num_beams", "sortish_sampler", "use_cache"),
    *(
        "ignore_data_skip",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "load_best_model_at_end",
    ),
    *("early_stopping_patience", "average_checkpoints", "dataloader_num_workers", "dataloader_persistent_workers"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"),
    *("torch_empty_cache_steps", "activation_checkpointing", "activation_checkpointing_kwargs"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "ddp_bucket_cap_mb", "ddp_backend"),
}
# Facts that are recorded as a digest, and the message where it differs.
DIGESTS = {
    "tokenizer": "tokenizer is another one",
    "chat_template": "chat_template is another one",
    "base_weights": "the model under the adapter is another one",
    "train_dataset": "train_dataset has other rows, or the same rows in another order",
    "eval_dataset": "eval_dataset, by which the best model is chosen, has other rows or references",
}
# The metric that the best model and some schedules depend on, and the facts that it is computed from.
METRIC = ("metric_for_best_model", "greater_is_better")
COMPUTED_FROM = ("eval_dataset", "generation_config", "bleu_tokenize", "decode_tags")
CHOICE = (*METRIC, *COMPUTED_FROM)
WAITING = ("reduce_lr_on_plateau", "greedy")
# Facts that decide which rows a batch has.
BATCHES = {
    *("per_device_train_batch_size", "max_tokens_per_batch", "gradient_accumulation_steps", "dataloader_drop_last"),
    *("train_sampling_strategy", "seed", "data_seed", "processes", "accelerator_config", "train_dataset"),
}
# Settings of libraries; another version may have other ones, which are not compared.
OF_LIBRARIES = re.compile(r"peft\.|accelerator_config|fsdp_config|parallelism_config")
# Fields of a configuration that change no logits, that are set when a model is saved, or that the Trainer takes from
# the tokenizer (`align_special_tokens`), whose digest is a fact.
UNREAD = {
    *("pad_token_id", "bos_token_id", "eos_token_id"),
    *("transformers_version", "architectures", "auto_map", "dtype", "use_cache", "return_dict", "seqblend_version"),
    *("output_hidden_states", "output_attentions", "name_or_path"),
}


class Change(NamedTuple):
    """A fact that differs between a run and the checkpoint that it is resumed from."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return DIGESTS.get(self.name) or describe_change(self.name, self.before, self.now)


def describe_change(name: str, before: Any, now: Any) -> str:
    """The values of a fact before and now, as a message; of a mapping or a list, the first item that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        differing = [key for key in {**before, **now} if not equal(before.get(key, ...), now.get(key, ...))]
        # Preferably one that both have.
        key = next((key for key in differing if key in before and key in now), differing[0])
        return describe_change(f"{name}[{key}]", before.get(key, "nothing"), now.get(key, "nothing"))
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        index = next(i for i, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1])
        return describe_change(f"{name}[{index}]", before[index], now[index])
    return f"{name} {format_value(now):.{SHOWN}}, was {format_value(before):.{SHOWN}}"


def equal(before: Any, now: Any, common: bool = False) -> bool:
    """Whether two values are equal; with `common`, only the keys that both mappings have are compared."""
    if common and isinstance(before, dict) and isinstance(now, dict):
        return all(equal(before[key], now[key], common) for key in before.keys() & now.keys())
    return before == now


def changes_of(before: Facts, now: Facts) -> list[Change]:
    """The facts that differ.

    A fact that only one side has is left out: another version of a library added it. A fact that a metric is computed
    from is left out if one side has no metric: the metric is a fact itself.
    """
    names = [
        name for name in now if name in before and not (name in COMPUTED_FROM and None in (before[name], now[name]))
    ]
    return [
        Change(name, before[name], now[name])
        for name in names
        if not equal(before[name], now[name], common=bool(OF_LIBRARIES.match(name)))
    ]


def identity_of(facts: Facts) -> str:
    """The name of a run: a hash of its facts, without those in FREE."""
    decisive = {name: value for name, value in facts.items() if name not in FREE}
    return hashlib.sha256(as_json(decisive).encode()).hexdigest()[:16]


def check_allowed(names: Sequence[str], facts: Facts) -> None:
    """Raises InputError for a name that is not a fact of a run; the message lists the nearest ones."""
    for name in names:
        if name not in facts:
            nearest = ", ".join(nearest_first(name, facts)[:NEAREST])
            raise InputError(f"allow_changed: unknown fact of a run {name!r}; valid, nearest first: {nearest}")


def read_facts(checkpoint: Path) -> Facts | None:
    """The facts of the run that wrote a checkpoint; None if it has none.

    Raises:
        InputError: they cannot be read.
    """
    path = checkpoint / IDENTITY
    if not path.is_file():
        return None
    try:
        return dict(load_object(path)["facts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def read_defaults(checkpoint: Path) -> Facts | None:
    """The values that the run that wrote a checkpoint chose for options that were not given; None without facts.

    Version 0.9 records only their names, and an earlier version not even these: then they are all facts.

    Raises:
        InputError: they cannot be read.
    """
    facts = read_facts(checkpoint)
    if facts is None:
        return None
    chosen = load_object(checkpoint / IDENTITY).get("defaults", facts)
    return chosen if isinstance(chosen, dict) else {name: facts[name] for name in chosen if name in facts}


def facts_of(
    model: PreTrainedModel,
    args: TrainingArguments,
    tokenizer: Any = None,
    collator: Any = None,
    train_dataset: Any = None,
    computed_from: Facts | None = None,
) -> Facts:
    """All facts that the steps of a run depend on, and the options of FREE, by name, as JSON restores them.

    Args:
        model: the model to train.
        args: the arguments of the run.
        tokenizer: the tokenizer or another processing class, if any.
        collator: makes batches of rows.
        train_dataset: the training rows.
        computed_from: facts behind the metric that chooses the best model; None without a metric.
    """
    facts = {
        **{name: value for name, value in args.to_dict().items() if name not in NOT_RECORDED},
        "processes": args.world_size,
        # FSDP2 changes the class of the model.
        "model": type(model).__name__.removeprefix("FSDP"),
        "model_dtype": str(getattr(model, "dtype", None)),
        "trained_parameters": sum(each.numel() for each in model.parameters() if each.requires_grad),
        **config_facts(getattr(model, "config", None)),
        **{f"peft.{name}": adapter_facts(each) for name, each in getattr(model, "peft_config", {}).items()},
        "base_weights": base_digest(model, args),
        "tokenizer": tokenizer_digest(tokenizer),
        "chat_template": template_digest(tokenizer),
        "collator": collator_facts(collator),
        "train_dataset": rows_digest(train_dataset),
        **dict.fromkeys(COMPUTED_FROM),
        **(computed_from or {}),
    }
    return json.loads(as_json(facts))


def as_json(value: Any) -> str:
    """A value as JSON, the same in every process: sets are sorted, objects have no memory addresses."""

    def plain(each: Any) -> Any:
        return sorted(each, key=str) if isinstance(each, set | frozenset) else re.sub(" at 0x[0-9a-f]+", "", str(each))

    return json.dumps(value, default=plain, sort_keys=True)


def config_facts(config: Any) -> Facts:
    """The fields of a configuration; fields of a nested one have its name in front, as in `encoder.hidden_size`."""
    facts: Facts = {}
    for name, value in (config.to_dict() if isinstance(config, PreTrainedConfig) else {}).items():
        if isinstance(part := getattr(config, name, None), PreTrainedConfig):
            facts |= {f"{name}.{each}": found for each, found in config_facts(part).items()}
        elif name not in UNREAD and not name.startswith("_"):
            facts[name] = value
    return facts


def adapter_facts(config: Any) -> Facts:
    """The settings of an adapter, without the path of its base model and fields that are set on loading."""
    left_out = ("peft_version", "base_model_name_or_path", "revision", "inference_mode")
    return {name: value for name, value in config.to_dict().items() if name not in left_out}


def base_digest(model: Any, args: TrainingArguments) -> str | None:
    """A digest of some values of each frozen weight under an adapter, because checkpoints hold only the adapter.

    None for another model, and where the weights are divided among processes.
    """
    if not hasattr(model, "peft_config") or args.fsdp or args.deepspeed:
        return None
    sha = hashlib.sha256()
    for name, tensor in model.named_parameters():
        # peft keeps a copy of each module that it trains whole, which is not used.
        if not tensor.requires_grad and ".original_module." not in name:
            values = tensor.detach().flatten()
            step = max(1, len(values) // SAMPLED)
            sha.update(name.encode() + values[::step].float().cpu().numpy().tobytes())
    return sha.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str | None:
    """A digest of a tokenizer's vocabulary and settings; for another processing class, its name."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None if tokenizer is None else type(tokenizer).__qualname__
    # Every call of the tokenizer sets truncation and padding.
    settings = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    content = as_json([settings, special, tokenizer.padding_side, tokenizer.truncation_side])
    return hashlib.sha256(content.encode()).hexdigest()


def template_digest(tokenizer: Any) -> str | None:
    """A digest of a tokenizer's chat template; None without one."""
    template = getattr(tokenizer, "chat_template", None)
    return None if template is None else hashlib.sha256(as_json(template).encode()).hexdigest()


def collator_facts(collator: Any) -> Facts | None:
    """The name of a collator's class or function, and its settings: dataclasses and plain values."""
    if collator is None:
        return None
    facts: Facts = {"class": getattr(collator, "__qualname__", type(collator).__qualname__)}
    for name, value in getattr(collator, "__dict__", {}).items():
        if dataclasses.is_dataclass(value) and not callable(value):
            facts[name] = dataclasses.asdict(value)  # type: ignore[arg-type]
        elif isinstance(value, bool | int | float | str) and name != "epoch":
            facts[name] = value
    return facts


# --- Rows ---


def rows_digest(rows: Any) -> Any:
    """A value that identifies rows and their order.

    Returns:
        For stored rows, a digest of their content. For a RowStream, the names and sizes of its files; their content is
        compared as it is read. For anything else, its class, and the number of rows if it is known.
    """
    if isinstance(rows, datasets.Dataset):
        return table_digest(rows)
    if isinstance(rows, RowStream):
        return [list(each) for each in rows.files]
    if isinstance(rows, Mapping):
        return {name: rows_digest(each) for name, each in rows.items()}
    if isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in rows):
        return hashlib.sha256("\n".join(map(row_text, rows)).encode()).hexdigest()
    if rows is None:
        return None
    return {"class": type(rows).__qualname__, "rows": len(rows) if has_length(rows) else None}


def row_text(row: Mapping[str, Any]) -> str:
    """A row as text. Tensors and arrays become lists: str() of a tensor is abbreviated and names the device."""
    return str({name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()})


def table_digest(rows: datasets.Dataset) -> str:
    """The SHA-256 of a table's rows; independent of the chunks, slices or indices of their storage."""
    digest, schema = hashlib.sha256(), rows.features.arrow_schema.remove_metadata()
    table = rows.with_format("arrow")
    for start in range(0, len(rows), BLOCK_ROWS):
        block = table[start : start + BLOCK_ROWS].cast(schema)
        for name in sorted(block.column_names):
            column = block[name]
            # Concatenation removes the offsets of slices.
            array = pa.concat_arrays([pa.array([], column.type), *column.chunks])
            # The bytes of a null are undefined.
            content = str(array.to_pylist()).encode() if has_nulls(array) else array_bytes(name, array)
            digest.update(content)
    return digest.hexdigest()


def has_nulls(array: pa.Array) -> bool:
    """Whether an array has nulls, also inside of its lists and structs."""
    if array.null_count > 0 or not pa.types.is_nested(array.type):
        return array.null_count > 0
    inside = array.flatten()
    return any(map(has_nulls, inside if isinstance(inside, list) else [inside]))


def array_bytes(name: str, array: pa.Array) -> pa.Buffer:
    """The bytes of an array, its type and its name."""
    return pa.record_batch([array], names=[name]).serialize()
