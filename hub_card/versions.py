"""Loading a model that another version of this package saved.

A later version may have fields that change the outputs and that this version does not know. transformers stores an
unknown field of config.json as an attribute that nothing reads, so the model would load, but with other outputs. This
module warns of unknown fields, and refuses them if the code beside config.json is of a later version.
"""

import os
from functools import wraps
from pathlib import Path
from typing import Any

from packaging.version import Version
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import cached_file, logging

from ..configuration.recipe_config import RecipeConfig
from ..conversion.origin import load_origin
from ..modeling.base import BlendPreTrainedModel
from ..version import __version__
from .export import exported_version, flat_name

logger = logging.get_logger(__name__)

# Fields that transformers and libraries for training or quantization add to the config of any model.
COMMON_FIELDS = {
    "auto_map",
    "custom_pipelines",
    "finetuning_task",
    "is_causal",
    "is_decoder",
    "prefix",
    "pretraining_tp",
    "processor_class",
    "quantization_config",
    "sbert_ce_default_activation_function",
    "sentence_transformers",
    "task_specific_params",
    "tokenizer_class",
    "transformers_weights",
    "use_cache",
}

# Options of from_pretrained that say where files are found.
HUB_OPTIONS = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")


def patch_loading() -> None:
    """Patch from_pretrained of models and configurations, also for Auto classes, to check the version of the files."""
    load_dict = RecipeConfig.from_dict.__func__
    load_config = RecipeConfig.from_pretrained.__func__
    load_model = BlendPreTrainedModel.from_pretrained.__func__

    @wraps(load_dict)
    def load_checked_dict(cls: type[RecipeConfig], config_dict: dict[str, Any], **kwargs: Any) -> Any:
        loaded = load_dict(cls, config_dict, **kwargs)
        # AutoConfig passes the name without the revision. So a repository is checked when the model is loaded.
        name = str(kwargs.get("name_or_path") or "")
        check_version(config_of(loaded), name if os.path.exists(name) else None)
        return loaded

    # The first parameter is called as transformers calls it: callers give it by name, too.
    @wraps(load_config)
    def load_checked_config(cls: type[RecipeConfig], pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        loaded = load_config(cls, pretrained_model_name_or_path, **kwargs)
        check_version(config_of(loaded), pretrained_model_name_or_path, **hub_options(kwargs))
        return loaded

    @wraps(load_model)
    def load_checked_model(
        cls: type[BlendPreTrainedModel], pretrained_model_name_or_path: str | Path | None, *args: Any, **kwargs: Any
    ) -> PreTrainedModel:
        name = pretrained_model_name_or_path
        # Before the weights, which may not fit. Without a config transformers loads it, and that is checked above.
        if isinstance(kwargs.get("config"), RecipeConfig):
            check_version(kwargs["config"], name, **hub_options(kwargs))
        loaded = load_model(cls, name, *args, **kwargs)
        if name is not None:
            load_origin(loaded[0] if isinstance(loaded, tuple) else loaded, name, **hub_options(kwargs))
        return loaded

    RecipeConfig.from_dict = classmethod(load_checked_dict)
    RecipeConfig.from_pretrained = classmethod(load_checked_config)
    BlendPreTrainedModel.from_pretrained = classmethod(load_checked_model)


def config_of(loaded: Any) -> RecipeConfig:
    """The configuration from a result that may also hold unused arguments, `(config, unused_kwargs)`."""
    return loaded[0] if isinstance(loaded, tuple) else loaded


def hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}


def check_version(config: RecipeConfig, name: str | Path | None = None, **options: Any) -> None:
    """Warn of unknown fields, and of a repository that a later version saved.

    Args:
        config: the loaded configuration.
        name: its source: a directory, config.json, or a repository of the Hub. None: unknown.
        options: of cached_file, for a repository.

    Raises:
        ValueError: there are unknown fields, and a later version saved the repository.
    """
    fields = ", ".join(unknown_fields(config))
    later = None if name is None else later_version(type(config), name, **options)
    if fields and later:
        raise ValueError(
            f"{name} was saved by a later seqblend {later}; the installed seqblend {__version__} does not know these "
            f"fields of its config.json: {fields}. Upgrade seqblend, or load the model with trust_remote_code=True in "
            "a program that does not import seqblend, which runs the code of the repository"
        )
    if fields:
        message = "config.json has fields that seqblend %s does not know and ignores: %s"
        logger.warning_once(message, __version__, fields)
    if later:
        message = "%s was saved by seqblend %s; the code of the installed seqblend %s is used"
        logger.warning_once(message, str(name), later, __version__)


def unknown_fields(config: RecipeConfig) -> list[str]:
    """The attributes of a configuration, and of its parts, that come from a file and are not fields of the class."""
    own = [
        name
        for name in vars(config)
        if not (name.startswith("_") or name in COMMON_FIELDS or hasattr(type(config), name))
    ]
    return own + [f"{part}.{name}" for part in config.sub_configs for name in unknown_fields(getattr(config, part))]


def later_version(config_class: type[RecipeConfig], name: str | Path, **options: Any) -> str | None:
    """The version in the header of a repository's code, if it is later than this one.

    Args:
        config_class: of the model; the exported file of its module is read.
        name: a directory, its config.json, or a repository of the Hub.
        options: of cached_file.

    Returns:
        The version; None for this version or an earlier one, and without such a file.
    """
    directory = os.path.dirname(name) if os.path.isfile(name) else name
    try:
        path = cached_file(directory, f"{flat_name(config_class.__module__)}.py", **options)
    except OSError:  # no such file or repository, or no connection
        return None
    version = exported_version(Path(path))
    return None if version is None or version <= Version(__version__) else str(version)
