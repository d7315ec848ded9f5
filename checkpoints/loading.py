"""Loading a saved model from a directory or the Hub: no code of it is run, and every tensor is checked."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME

from ..conversion import ConversionError
from ..conversion.reading import Original, find_architecture, is_own, read_original_config
from ..data.errors import InputError, describe, loading_error_line
from ..modeling.families import FAMILIES
from .run_directory import MODEL_CONFIG

logger = logging.getLogger(__name__)

# A model that was exported for another engine; see serving/.
ENGINE_FILE = "engine.json"

# OWNER/NAME, and a NAME alone, as old repositories have.
NAME_ON_HUB, OLD_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*"), re.compile(r"\w[\w.-]*")


def is_adapter(path: str | Path) -> bool:
    """Whether a directory holds an adapter of peft, and no whole model."""
    return Path(path, ADAPTER_CONFIG_NAME).is_file() and not Path(path, "config.json").exists()


def load_weights(
    auto_class: Any,
    path: str,
    config: PretrainedConfig,
    flag: str = "model_name_or_path",
    revision: str | None = None,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A saved model, and the names of tensors that did not fit. No code of its directory is run, no pickle is read.

    Of a checkpoint of another architecture, pickles that hold nothing but tensors are read, too.

    Raises:
        InputError: the model cannot be loaded.
    """
    if Path(path, ENGINE_FILE).is_file():
        raise InputError(f"{flag}: {path} was exported for another engine; give the model that it was exported from")
    try:
        if (original := open_original(path, revision)) is not None:
            model, report = original.convert(auto_class, config)
            return model, {
                "missing_keys": report.initialized,
                "unexpected_keys": report.ignored,
                "mismatched_keys": [],
            }
        with without_load_report():
            return auto_class.from_pretrained(
                path,
                config=config,
                revision=revision or "main",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
    except Exception as error:  # from_pretrained of transformers raises any exception
        raise loading_error(path, error, flag) from error


def load_base(
    auto_class: Any, base: str, revision: str | None, config: PretrainedConfig
) -> tuple[PreTrainedModel, set[str]]:
    """The base model of an adapter, with the configuration of the adapted model, which may have other labels.

    Args:
        auto_class: selects the head.
        base: a directory or a repository of the Hub: of seqblend, or of another architecture.
        revision: of the repository.
        config: of the adapted model.

    Returns:
        The model, and the names of its tensors that the checkpoint does not have, or has for other labels.

    Raises:
        InputError: a model of seqblend cannot be loaded.
        ConversionError: another one cannot be converted.
        OSError: there is no such checkpoint.
    """
    original = open_original(base, revision)
    if original is None:
        model, info = load_weights(auto_class, base, config, "model", revision)
        return model, {*info["missing_keys"], *mismatched_names(info)}
    converted, report = original.convert(auto_class, original.convert_config(auto_class))
    model, info = type(converted).from_pretrained(
        None,
        config=config,
        state_dict=converted.state_dict(),
        dtype=converted.dtype,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        trust_remote_code=False,
    )
    model.origin = converted.origin
    return model, {*report.initialized, *info["missing_keys"], *mismatched_names(info)}


@contextmanager
def without_load_report() -> Iterator[None]:
    """Suppress transformers' table of tensors that did not fit; `check_loaded` names them in one line."""
    source = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    source.addFilter(is_other)
    try:
        yield
    finally:
        source.removeFilter(is_other)


def load_config(path: str, flag: str = "model_name_or_path", auto_class: Any = None) -> PretrainedConfig:
    """The configuration of a saved model; for a checkpoint of another architecture, that of the converted model.

    Args:
        path: a directory or a repository of the Hub.
        flag: the option that has the path, for messages.
        auto_class: the head of the converted model, whose fields depend on it; default: that of the checkpoint.

    Raises:
        InputError: it cannot be loaded, or its architecture is not supported.
    """
    # `seqblend predict NAME` most likely means a directory.
    is_old_name = flag != "DIR" and OLD_NAME.fullmatch(str(path))
    if not (Path(path).exists() or NAME_ON_HUB.fullmatch(str(path)) or is_old_name):
        raise InputError(f"{flag}: there is no directory {path}")
    source = str(Path(path, MODEL_CONFIG)) if is_adapter(path) else path
    if source != path and not Path(source).is_file():
        raise InputError(
            f"{flag}: {path}: {MODEL_CONFIG} is missing; only adapters saved by seqblend train --lora_rank can be "
            "opened"
        )
    try:
        if not is_adapter(path) and (original := open_original(path)) is not None:
            return convert_config(original, auto_class)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # from_pretrained of transformers raises any exception
        raise loading_error(path, error, flag) from error
    named = config.architectures
    if named is not None and not (isinstance(named, list) and all(isinstance(each, str) for each in named)):
        raise InputError(f"{flag}: {path}: architectures in config.json is {describe(named)}, not a list of names")
    # Custom pipelines name code, as auto_map does. A model that is trained from this one must not name it.
    vars(config).pop("custom_pipelines", None)
    return config


def open_original(path: str, revision: str | None = None) -> Original | None:
    """A checkpoint of another architecture; None for a model of this package. config.json is read once.

    Args:
        path: a directory or a repository of the Hub.
        revision: of the repository.

    Raises:
        InputError: config.json has no model_type.
        ConversionError: the architecture is not supported.
        OSError: there is no such directory or repository, or no config.json.
    """
    hub = {} if revision is None else {"revision": revision}
    config = read_original_config(path, {}, hub)
    if is_own(config):
        return None
    if config.get("model_type") is None:
        raise InputError(
            f"{path}: config.json has no model_type; convert it first: seqblend convert {path} TARGET --model_type "
            "NAME"
        )
    return Original(path, find_architecture(path, config, None), config, hub, {})


def convert_config(original: Original, auto_class: Any) -> PretrainedConfig:
    """The configuration of a converted checkpoint; `architectures` has the class for its own head, if it has one."""
    own = original.saved_head() or AutoModel
    config = original.convert_config(own if auto_class is None else auto_class)
    config.architectures = [FAMILIES[type(config)][own].__name__]
    return config


def loading_error(path: str, error: Exception, flag: str = "model_name_or_path") -> InputError:
    """The InputError for a model that cannot be loaded; it says whether there is such a directory."""
    where = "cannot be loaded" if Path(path).exists() else "is no directory here, and cannot be loaded from the Hub"
    reason = str(error) if isinstance(error, ConversionError | InputError) else loading_error_line(error)
    return InputError(f"{flag}: {path!r} {where} ({reason})")


def mismatched_names(info: dict[str, Any]) -> list[str]:
    """The names of the tensors of another shape, from the loading info of from_pretrained."""
    return sorted(key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"])


def check_loaded(
    path: str, model: PreTrainedModel, info: dict[str, Any], training: bool, flag: str = "model_name_or_path"
) -> None:
    """Log the tensors of heads that were dropped or newly initialized.

    Raises:
        InputError: a tensor of the base model is missing, unexpected or of another shape; or a tensor is newly
            initialized without training.
    """
    prefix = f"{model.base_model_prefix}."
    parts = {name for name, _ in model.base_model.named_children()}

    def in_base(name: str) -> bool:
        return name.startswith(prefix) or name.split(".")[0] in parts

    new = sorted(info["missing_keys"])
    dropped = sorted(info["unexpected_keys"])
    resized = mismatched_names(info)
    for what, names in {"missing": new, "unexpected": dropped, "of another shape": resized}.items():
        if wrong := [name for name in names if in_base(name)]:
            raise InputError(f"{flag}: {path} does not fit; {what}: {', '.join(wrong)}")
    if (new or resized) and not training:
        raise InputError(f"{flag}: {path}: newly initialized, but nothing is trained: {', '.join(new + resized)}")
    for what, names in {"newly initialized": new + resized, "dropped": dropped}.items():
        if names:
            logger.warning("%s: %s: %s", path, what, ", ".join(names))
