"""The data report: statistics and possible errors of a data set, before hours are spent on it."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.errors import printable
from ..data.splits import LabelledData
from ..data.streams import RowStream
from ..data.writing import write_atomically
from ..tasks.base import Task
from ..tasks.encoding import Settings
from ..tasks.splits import EncodedSplit
from .labels import doubtful_labels
from .tables import markdown_cell, markdown_table
from .texts import as_texts, first_texts, hash_answers, hash_rows, lengths_of, suspicious_rows

logger = logging.getLogger(__name__)

FILES = ("data_report.md", "data_report.json")
# Rows that are read at a time.
BATCH = 1000
# Quantiles of lengths.
LEVELS = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)
# How many rows are named of each finding, and how many labels are listed in Markdown.
MOST_ROWS, MOST_LABELS = 5, 30


@dataclass
class Finding:
    """Rows that may be wrong.

    Args:
        count: their number.
        rows: the first of them, counted from 1 in the split.
        places: the same by file and row in it.
    """

    count: int = 0
    rows: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def add(self, indices: np.ndarray) -> None:
        """Add rows by their indices."""
        self.count += len(indices)
        self.rows += [int(index) + 1 for index in indices[: MOST_ROWS - len(self.rows)]]

    @classmethod
    def of_rows(cls, indices: np.ndarray) -> "Finding":
        """Rows by their indices."""
        finding = cls()
        finding.add(indices)
        return finding

    def examples(self) -> str:
        """The places of the first rows."""
        return "; ".join(self.places) + ("; …" if self.count > len(self.places) else "")


@dataclass
class SplitReport:
    """What was found in a split.

    Args:
        rows: number of rows.
        source: its files or data set.
        labels: the number of rows, or of words, with each label, the most frequent first.
        lengths: the quantiles LEVELS of the lengths, by unit.
        findings: rows that may be wrong, by reason.
        tokens: facts about the encoded rows.
    """

    rows: int
    source: str
    labels: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, list[float]] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    tokens: dict[str, int | float] = field(default_factory=dict)

    def summary(self, name: str) -> str:
        """One line for the terminal."""
        parts = [f"{self.rows:,} rows"]
        if self.labels:
            counts = self.labels.values()
            parts.append(f"{len(self.labels)} labels ({min(counts):,} to {max(counts):,} each)")
        if self.lengths:
            unit, quantiles = next(iter(self.lengths.items()))
            least, median, most = (quantiles[LEVELS.index(level)] for level in (0, 0.5, 1))
            parts.append(f"{unit} {least:,.10g} to {most:,.10g}, median {median:,.10g}")
        parts += [f"{finding.count:,} {reason}" for reason, finding in self.findings.items() if finding.count]
        return f"{name}: {', '.join(parts)}"

    def markdown(self, name: str) -> list[str]:
        """A section of the report."""
        lines = [f"## {name}", "", f"{self.rows:,} rows of {markdown_cell(printable(self.source))}.", ""]
        if self.lengths:
            head = ["length", *(f"{level:.0%}" for level in LEVELS)]
            rows = [[unit, *(f"{value:,.10g}" for value in values)] for unit, values in self.lengths.items()]
            lines += [*markdown_table(head, rows), ""]
        found = [[reason, each.count, each.examples()] for reason, each in self.findings.items() if each.count]
        lines += [*markdown_table(["possible problem", "rows", "first rows"], found), ""] if found else []
        if self.labels:
            total = sum(self.labels.values())
            rows = [[label, count, f"{count / total:.1%}"] for label, count in [*self.labels.items()][:MOST_LABELS]]
            rows += (
                [[f"… and {len(self.labels) - MOST_LABELS} more", "", ""]] if len(self.labels) > MOST_LABELS else []
            )
            lines += [*markdown_table(["label", "count", "share of all labels"], rows), ""]
        if self.tokens:
            lines += [*markdown_table(["tokens", "number"], [list(pair) for pair in self.tokens.items()]), ""]
        return lines


@dataclass
class Overlap:
    """Rows of one split whose text stands in another one.

    Args:
        first: the name of the other split.
        second: the name of the split.
        shared: the rows.
        contradicting: those of them that never stand there with the same answer.
    """

    first: str
    second: str
    shared: Finding
    contradicting: Finding


@dataclass
class DataReport:
    """What was found in the splits, and between them.

    Args:
        splits: by name.
        overlaps: of each two splits.
    """

    splits: dict[str, SplitReport]
    overlaps: list[Overlap]

    def summaries(self) -> list[str]:
        """A line for each split."""
        return [report.summary(name) for name, report in self.splits.items()]

    def overlap_lines(self) -> list[str]:
        """A line for each two splits that share rows."""
        return [
            f"{each.first} and {each.second}: {each.shared.count:,} rows of {each.second} are also in {each.first}, "
            f"{each.contradicting.count:,} with another answer"
            for each in self.overlaps
            if each.shared.count
        ]

    def markdown(self) -> str:
        """The report in Markdown."""
        lines = ["# Data report", ""]
        for name, report in self.splits.items():
            lines += report.markdown(name)
        if self.overlaps:
            head = ["splits", "rows of the second that are also in the first", "with another answer", "first rows"]
            rows = [
                [f"{each.first}, {each.second}", each.shared.count, each.contradicting.count, each.shared.examples()]
                for each in self.overlaps
            ]
            lines += ["## Between splits", "", *markdown_table(head, rows), ""]
        return "\n".join(lines)

    def write(self, directory: Path) -> None:
        """Write FILES into a directory."""
        text, content = (directory / name for name in FILES)
        write_atomically(text, self.markdown())
        write_atomically(content, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def warn_about_leakage(report: DataReport, rows: LabelledData, inputs: Sequence[str]) -> dict[str, str]:
    """Log for each other split how many of its rows are also in training, where a model may have memorized them.

    Args:
        report: of the rows.
        rows: the splits.
        inputs: the columns that the model reads.

    Returns:
        The message of each split for the card, without the path of its file.
    """
    train, messages = rows.get("train"), {}
    if isinstance(train, RowStream):
        for split in [name for name in rows if name != "train"]:
            source = str(rows.origins[split])
            reason = "is trained on" if source == str(rows.origins["train"]) else "is not compared with a stream"
            logger.warning("%s: %s %s", split, source, reason)
            messages[split] = f"{split}: the split {reason}"
    for overlap in report.overlaps:
        if overlap.first != "train" or not (count := overlap.shared.count):
            continue
        split, others = overlap.second, overlap.contradicting.count
        columns = " and ".join(name for name in inputs if name in rows[split].column_names)
        part, verb = f"{count:,} of {len(rows[split]):,} rows", "is" if count == 1 else "are"
        found = f"{verb} also in training, compared by {columns}"
        found += f"; {others:,} of them with another answer" if others else ""
        logger.warning("%s: %s (%s) %s", split, part, rows.origins[split], found)
        messages[split] = f"{split}: {part} {found}"
    return messages


# --- Reading the splits ---


@dataclass
class Hashes:
    """Hashes of the rows of a split.

    Args:
        inputs: of what the model reads, (N).
        whole: of that and the answer, (N).
        has_text: whether the model reads anything in the row, (N).
    """

    inputs: np.ndarray
    whole: np.ndarray
    has_text: np.ndarray


def make_data_report(
    task: Task, rows: LabelledData, settings: Settings, encoded: dict[str, EncodedSplit] | None = None
) -> DataReport:
    """Read all rows of the splits once; a stream is left out.

    Memory grows with the number of rows, by some tens of bytes each, not with the length of their texts.

    Args:
        task: of the data.
        rows: the splits.
        settings: the labels, and for encoded splits the tokenizer.
        encoded: the same splits, encoded.
    """
    splits, hashes = {}, {}
    for name, split in rows.items():
        if isinstance(split, RowStream):
            continue
        reader = SplitReader(task, split, str(rows.origins[name]), settings)
        splits[name], hashes[name] = reader.read()
        if encoded is not None:
            splits[name].tokens = token_facts(encoded[name], settings)
    overlaps = [
        Overlap(first, second, *find_shared(hashes[first], hashes[second]))
        for first, second in combinations(hashes, 2)
    ]
    of_splits = [(name, finding) for name, report in splits.items() for finding in report.findings.values()]
    between = [(each.second, finding) for each in overlaps for finding in (each.shared, each.contradicting)]
    for name, finding in of_splits + between:
        finding.places = [rows.origins[name].row(number) for number in finding.rows]
    return DataReport(splits, overlaps)


class SplitReader:
    """Reads a split in batches.

    Args:
        task: of the data.
        rows: the split.
        source: its files or data set.
        settings: the labels.
    """

    def __init__(self, task: Task, rows: datasets.Dataset, source: str, settings: Settings):
        self.task, self.rows, self.settings = task, rows, settings
        self.report = SplitReport(len(rows), source)
        self.inputs = [name for name in task.inputs if name in rows.column_names]
        has_answer = task.reference in rows.column_names and task.reference not in self.inputs
        self.answer = task.reference if has_answer else None
        # A written answer is a text, too.
        self.texts = [*self.inputs, *([self.answer] if has_answer and self.answer in task.text_columns else [])]
        self.constraints = settings.tag_constraints if task.reads_words and has_answer else None
        self.doubtful = pa.array(doubtful_labels(settings.labels), pa.string())
        # Of each row by unit, (N).
        self.lengths: dict[str, np.ndarray] = {}
        self.labels: Counter[str] = Counter()

    def read(self) -> tuple[SplitReport, Hashes]:
        """The report of the split, and the hashes of its rows."""
        count = len(self.rows)
        found = Hashes(np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, bool))
        starts = range(0, count, BATCH)
        for start, table in zip(starts, self.rows.with_format("arrow").iter(BATCH), strict=True):
            for name in self.texts:
                self.add_texts(name, table[name], start)
            if self.answer is not None:
                self.add_answers(table[self.answer], start)
            batch = slice(start, start + len(table))
            inputs, found.has_text[batch] = hash_rows([as_texts(table[name]) for name in self.inputs])
            found.inputs[batch] = inputs
            found.whole[batch] = inputs if self.answer is None else inputs ^ self.hash_answers(table[self.answer])
        repeated, contradicting = find_repeated(found)
        first = {"repeated": repeated, "repeated with another answer": contradicting}
        self.report.findings = first | self.report.findings
        self.report.lengths = {unit: quantiles(values) for unit, values in self.lengths.items()} | self.ratio()
        self.report.labels = dict(self.labels.most_common())
        return self.report, found

    def hash_answers(self, column: pa.ChunkedArray) -> np.ndarray:
        """Hashes of a batch of answers; of several references the first."""
        is_written = self.answer in self.texts
        return hash_answers(first_texts(column) if is_written else column, is_ordered=self.task.reads_words)

    def add_texts(self, name: str, column: pa.ChunkedArray, start: int) -> None:
        """Add a batch of a column of texts or words; `start` is the index of its first row."""
        column = column if self.task.reads_words else first_texts(column)
        prefix = "" if len(self.texts) == 1 else f"{name}: "
        for reason, mask in suspicious_rows(as_texts(column)).items():
            self.report.findings.setdefault(f"{prefix}{reason}", Finding()).add(start + np.flatnonzero(mask))
        for unit, values in lengths_of(column).items():
            lengths = self.lengths.setdefault(f"{prefix}{unit}", np.zeros(len(self.rows), np.int32))
            lengths[start : start + len(values)] = values

    def add_answers(self, column: pa.ChunkedArray, start: int) -> None:
        """Add a batch of labels or tags; `start` is the index of its first row."""
        items, rows = column, np.arange(len(column))
        if pa.types.is_list(column.type):
            items, rows = pc.list_flatten(column), np.repeat(rows, pc.list_value_length(column).to_numpy())
        if self.answer not in self.texts and not pa.types.is_floating(items.type):
            for each in pc.value_counts(items).to_pylist():
                self.labels[str(each["values"])] += each["counts"]
            doubtful = pc.is_in(items, value_set=self.doubtful).to_numpy()
            finding = self.report.findings.setdefault("with a label that may be wrong", Finding())
            finding.add(start + np.unique(rows[doubtful]))
        if self.constraints is not None:
            ids = self.settings.label_ids
            sentences = (np.array([ids[tag] for tag in row], dtype=int) for row in column.to_pylist())
            broken = np.array([not self.constraints.is_legal(row) for row in sentences], dtype=bool)
            finding = self.report.findings.setdefault("tags that are no legal sequence", Finding())
            finding.add(start + np.flatnonzero(broken))

    def ratio(self) -> dict[str, list[float]]:
        """For pairs of texts, the quantiles of the ratio of their lengths in characters."""
        keys = [f"{name}: characters" for name in self.texts]
        if len(keys) != 2 or not all(key in self.lengths for key in keys):
            return {}
        first, second = (self.lengths[key] for key in keys)
        unit = f"characters of {self.texts[1]} per character of {self.texts[0]}"
        return {unit: quantiles(second / np.maximum(first, 1))}


def quantiles(values: np.ndarray) -> list[float]:
    """The quantiles LEVELS of values (N), which are values that occur; zeros for none."""
    if not len(values):
        return [0.0] * len(LEVELS)
    found = np.quantile(values, LEVELS, method="inverted_cdf")
    return [round(float(value), 3) for value in found]


def find_repeated(hashes: Hashes) -> tuple[Finding, Finding]:
    """The rows whose input stands in an earlier row, and those with another answer than the first such row."""
    # Equal hashes become neighbours, in the order of their rows.
    order = np.argsort(hashes.inputs, kind="stable")
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = hashes.inputs[order[1:]] != hashes.inputs[order[:-1]]
    place_of_first = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    differs = hashes.whole[order] != hashes.whole[order[place_of_first]]
    is_repeated = ~is_first & hashes.has_text[order]
    repeated, contradicting = (np.sort(order[mask]) for mask in (is_repeated, is_repeated & differs))
    return Finding.of_rows(repeated), Finding.of_rows(contradicting)


def find_shared(first: Hashes, second: Hashes) -> tuple[Finding, Finding]:
    """The rows of the second split whose input stands in the first, and those that never do with the same answer."""
    is_shared = second.has_text & np.isin(second.inputs, first.inputs)
    differs = is_shared & ~np.isin(second.whole, first.whole)
    return Finding.of_rows(np.flatnonzero(is_shared)), Finding.of_rows(np.flatnonzero(differs))


def token_facts(split: EncodedSplit, settings: Settings) -> dict[str, int | float]:
    """The number of tokens of the encoded rows, the quantiles of their lengths, and the number of unknown tokens."""
    features = split.features
    if isinstance(features, RowStream) or "input_ids" not in features.column_names or not len(features):
        return {}
    unknown, lengths, count = settings.tokenizer.unk_token_id, [], 0
    for table in features.select_columns("input_ids").with_format("arrow").iter(BATCH):
        lengths.append(pc.list_value_length(table["input_ids"]).to_numpy())
        if unknown is not None:
            count += pc.sum(pc.equal(pc.list_flatten(table["input_ids"]), unknown)).as_py() or 0
    of_sequences = np.concatenate(lengths)
    facts: dict[str, int | float] = {"all": int(of_sequences.sum())}
    names = [f"of a sequence, {level:.0%}" for level in LEVELS]
    facts |= dict(zip(names, map(int, quantiles(of_sequences)), strict=True))
    return facts if unknown is None else facts | {"unknown": int(count)}
