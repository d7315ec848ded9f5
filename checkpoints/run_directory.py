"""The directory of a run: finding and deleting an earlier run in it, and reading its results."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

from ..conversion.checkpoint import ADAPTER_FILES, SAFETENSORS
from ..conversion.origin import FOLDER as ORIGINAL_FILES
from ..data.errors import InputError, short_list
from ..data.objects import load_object, read_object
from ..hub_card.illustrate import CALIBRATION
from ..hub_card.original import FOLDER as ORIGINAL_FORMAT
from ..hub_card.verify import REFERENCE
from .faults import IDENTITY, STATE
from .store import STAGE, checkpoints_in, remove

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions.jsonl"
ERRORS = ("error_report.md", "error_report.json", "error_report.html")
ALL_RESULTS = "all_results.json"
RESULTS = [
    *(f"{name}_results.json" for name in ("train", "eval", "test", "run", "all")),
    PREDICTIONS,
    CALIBRATION,
    *ERRORS,
    REFERENCE,
]
# The configuration of the adapted model, beside an adapter. That is no config.json, beside which transformers would
# look for the weights of a whole model.
MODEL_CONFIG = "model_config.json"
ADAPTER = (*ADAPTER_FILES, MODEL_CONFIG)
# Patterns of the files that show an earlier run, besides checkpoints.
TRACES = (*RESULTS, STATE, "training_args.bin", *SAFETENSORS, ADAPTER_SAFE_WEIGHTS_NAME)
# Patterns of its other files, which do not fit another model.
OTHERS = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("data_report.md", "data_report.json", "added_tokens.json", "chat_template.jinja", "not-finite-*.pt", IDENTITY),
    *(ORIGINAL_FILES, ORIGINAL_FORMAT, *ADAPTER),
)


def traces_of_run(output_dir: str | Path) -> list[Path]:
    """The checkpoints and other files that show an earlier run; empty if there was none."""
    checkpoints = [Path(each) for each in checkpoints_in(output_dir)]
    return checkpoints + [path for pattern in TRACES for path in sorted(Path(output_dir).glob(pattern))]


def trained_length(directory: str | Path, file: str = ALL_RESULTS) -> int | None:
    """The maximum length of a text, in tokens, that a file of a run records; None if it records none.

    Raises:
        InputError: the file holds no JSON object.
    """
    length = read_object(Path(directory, file)).get("max_length")
    return length if isinstance(length, int) and 1 < length <= sys.maxsize else None


def clear_run(output_dir: str | Path) -> None:
    """Delete the files of an earlier run, but not the card and the user's files."""
    traces = traces_of_run(output_dir)
    if not traces:
        return
    others = [path for pattern in OTHERS for path in Path(output_dir).glob(pattern)]
    for path in (*traces, *others, Path(output_dir, STAGE)):
        remove(path)


def is_inside(path: str | Path | None, directory: str | Path) -> bool:
    """Whether a path, before or after links are followed, is the directory or lies in it; False for no path."""
    if not path:
        return False
    root, absolute = Path(os.path.realpath(directory)), Path(os.path.abspath(path))
    # A checkpoint in the directory may be a link.
    candidates = (Path(os.path.realpath(absolute)), Path(os.path.realpath(absolute.parent), absolute.name))
    return any(each.is_relative_to(root) for each in candidates)


def check_directory(args: TrainingArguments, sources: dict[str, str | None], checkpoint: str | bool | None) -> None:
    """Refuse an output directory where training would delete an earlier run, or mix it with the new one.

    Args:
        args: the arguments of the run.
        sources: the paths that the run starts from, by the names of their flags.
        checkpoint: the checkpoint to resume from; True for one in output_dir, if any; None for none.

    Raises:
        InputError: output_dir holds a run that is neither resumed nor to be overwritten; or a file that the run starts
            from would be deleted.
    """
    found = [path.name for path in traces_of_run(args.output_dir)]
    if not found or checkpoint is True or is_inside(checkpoint, args.output_dir):
        return
    if not args.overwrite_output_dir:
        raise InputError(
            f"output_dir: {args.output_dir} holds a run already ({short_list(found)}); --resume auto resumes it, "
            "--overwrite_output_dir true deletes it, or give another directory"
        )
    check_sources(args, sources)


def check_sources(args: TrainingArguments, sources: dict[str, str | None]) -> None:
    """Raises InputError if overwrite_output_dir would delete a file that the run starts from; see check_directory."""
    for name, path in sources.items():
        if is_inside(path, args.output_dir):
            raise InputError(f"overwrite_output_dir: would delete {name} {path}; give another output_dir")


def results_json(content: dict[str, Any]) -> str:
    """Results as JSON, formatted as transformers formats them."""
    return json.dumps(content, indent=4, sort_keys=True)


def read_results(path: Path) -> dict[str, Any]:
    """Results of an earlier run; empty if there are none, or, with a warning, if the file is damaged."""
    try:
        return load_object(path) if path.exists() else {}
    except ValueError as error:
        logger.warning("%s is damaged (%s) and is replaced", path, error)
        return {}
