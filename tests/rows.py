"""The readers of data/splits.py, asked by the name of a task, as the command line asks them."""

from dataclasses import fields
from types import SimpleNamespace

from seqblend.data import splits
from seqblend.data.columns import STANDARD_COLUMNS
from seqblend.data.formats import DEFAULT_READING
from seqblend.data.splits import DataOptions
from seqblend.tasks.corruption import Noise
from seqblend.tasks.registry import TASKS


def schema_of(task, columns=STANDARD_COLUMNS, problem_type=None):
    return TASKS[task].schema(columns, problem_type)


def read_file(path, task, *, columns=STANDARD_COLUMNS, problem_type=None, split="train", reading=DEFAULT_READING):
    return splits.read_files(split, path, schema_of(task, columns, problem_type).fields(split), reading)


def load_data(task, *, columns=STANDARD_COLUMNS, problem_type=None, known=None, **options):
    """Files by the names of their flags, as in `train_file=…`; other options are those of DataOptions."""
    files = {split: options.pop(f"{split}_file", None) for split in splits.SPLITS}
    files = {split: given for split, given in files.items() if given is not None}
    assert options.keys() <= {each.name for each in fields(DataOptions)}
    return splits.load_data(schema_of(task, columns, problem_type), DataOptions(files=files, **options), known)


def collator_of(task, tokenizer, noise=None):
    return TASKS[task].make_collator(SimpleNamespace(tokenizer=tokenizer, noise=noise or Noise()))
