"""`seqblend data [FILE.yaml] --task … --train_file …`: the data report alone, with the options of `seqblend train`."""

import logging
import sys
from pathlib import Path

from ..checkpoints.loading import load_config
from ..data.errors import InputError, print_error
from ..data.splits import LabelledData, load_data
from ..tasks.base import Task
from ..tasks.encoding import Settings
from ..tasks.registry import TASKS
from ..tasks.splits import encode_splits
from ..training.arguments import DataArguments, ModelArguments
from ..training.checks import check_options
from ..training.command_line import parse_arguments
from ..training.defaults import Defaults
from ..training.encoding import make_tokenizer
from ..training.model_defaults import resolve_max_length
from ..training.models import saved_labels, with_saved_problem_type
from ..training.progress import hide_bars, start_logging
from .data_report import FILES, make_data_report
from .labels import warn_about_labels

logger = logging.getLogger(__name__)

DESCRIPTION = """Report what a data set contains, without training. Needed are --task, and
files or --dataset_name; the options are those of seqblend train. For example:

  seqblend data --task sequence-classification --train_file train.jsonl \\
      --output_dir runs/report"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code is 2 if an option or the data is wrong."""
    start_logging()
    if not sys.stderr.isatty():
        hide_bars()
    try:
        report(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        return print_error(error)
    except OSError as error:
        return print_error(error, 1)
    return 0


def report(argv: list[str]) -> None:
    """Read the data, print the summary and write the report into output_dir. Raises InputError."""
    model_args, data_args, args = parse_arguments(argv, "data", DESCRIPTION)
    check_options(model_args, data_args, args)
    task = TASKS[data_args.task]
    if data_args.streaming:
        logger.info("streaming: the report reads all rows, and stores them in the cache of datasets")
        data_args.streaming = False
    path = model_args.model_name_or_path
    if path:
        data_args = with_saved_problem_type(data_args, task, path)
    rows = load_data(
        task.schema(data_args.columns(), data_args.problem_type),
        data_args.data_options(args, ("train", "validation", "test")),
        saved_labels(path) if path else None,
    )
    resolve_max_length(Defaults(args), model_args, data_args, task, trains="train" in rows)
    settings, encoded = settings_of(task, rows, model_args, data_args, args.seed), None
    if settings.tokenizer is not None:
        encoded = encode_splits(task, rows, settings, data_args.preprocessing_num_workers)
    found = make_data_report(task, rows, settings, encoded)
    print("\n".join([*found.summaries(), *found.overlap_lines()]))
    warn_about_labels(settings.labels)
    if "output_dir" not in args.given_options:
        print("--output_dir DIR writes the whole report")
        return
    directory = Path(args.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    found.write(directory)
    print(directory / FILES[0])


def settings_of(
    task: Task, rows: LabelledData, model_args: ModelArguments, data_args: DataArguments, seed: int
) -> Settings:
    """The settings that the report reads; without a saved tokenizer none is trained, and tokens are not counted."""
    tokenizer, fields, path = None, {}, model_args.model_name_or_path
    if model_args.saved_tokenizer:
        tokenizer = make_tokenizer(model_args, data_args, task, rows.get("train"))
    if "train" in rows and rows.label_names:
        fields = task.config_fields_from_rows(rows["train"], rows.label_names)
    elif path:
        fields = {"tag_scheme": load_config(path).tag_scheme}
    return Settings(
        tokenizer=tokenizer,
        labels=rows.label_names,
        origins=rows.origins,
        problem_type=task.resolve_problem_type(data_args.problem_type),
        token_types=False,
        seed=seed,
        overflow=data_args.overflow,
        overlap=data_args.overlap,
        noise=data_args.noise(),
        pack_documents=data_args.pack_documents,
        **data_args.lengths(),
        tag_scheme=fields.get("tag_scheme"),
    )


if __name__ == "__main__":
    sys.exit(main())
