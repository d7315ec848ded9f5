"""The model card: what a model does, how well, and how it was made, from what its run left in the directory.

Nothing on a card is invented. What the user knows is given (`Given`); what happened in training was kept by a callback
(`record.RunRecord`, in trainer_state.json); what was measured stands in all_results.json and predictions.jsonl, or is
computed here: the code for its use is run before it is printed, and the pictures are drawn.
"""

import functools
import logging
import math
import re
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ..configuration.base import unknown
from ..data.writing import write_atomically
from ..tasks.tags import describe_scheme
from ..version import __version__
from .agreement import MARK, count_agreeing, rows_of_each_label, told_rows, trial_code
from .contents import PublishError, gather, repository_files
from .illustrate import draw_pictures
from .provenance import check_code, renewed_code
from .record import shown
from .saved import Saved, read_saved
from .secrecy import is_public, known_secrets
from .usage import as_text, asking_code, is_pair, prompt_of, run_usage, usage_code

logger = logging.getLogger(__name__)

NOT_MEASURED = "not measured"
# What is no character of a text.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# By which a card of ours is known from one that somebody wrote.
MADE = "Made with seqblend"
# Each metric's name on the Hub, and in words.
METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "subset_accuracy": ("accuracy", "Subset accuracy"),
    "macro_f1": ("f1", "Macro F1"),
    "micro_f1": ("f1", "Micro F1"),
    "matthews_correlation": ("matthews_correlation", "Matthews correlation"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "spearman": ("spearmanr", "Spearman correlation"),
    "mse": ("mse", "Mean squared error"),
    "precision": ("precision", "Precision of spans"),
    "recall": ("recall", "Recall of spans"),
    "f1": ("f1", "F1 of spans"),
    "bleu": ("bleu", "BLEU"),
    "chrf": ("chrf", "chrF"),
    "exact_match": ("exact_match", "Exact match"),
    "word_error_rate": ("wer", "Word error rate"),
    "character_error_rate": ("cer", "Character error rate"),
    "perplexity": ("perplexity", "Perplexity"),
    "loss": ("loss", "Loss"),
}
SPLITS = {"eval": "validation", "test": "test"}
# The options that the card's table shows.
OPTIONS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "feed_forward_type", "hidden_act", "norm_type", "norm_position", "position_type"),
    *("sliding_window", "pooling", "hidden_dropout", "attention_dropout", "classifier_dropout", "label_smoothing"),
    "class_weights",
)


# The most characters of a value that was changed on the way.
CHANGED = 60


@strict
@dataclass
class Given:
    """What only the user knows of a model. All of it may be left out.

    Args:
        repo_id: `user/name`.
        revision: the branch that it is pushed to.
        title: the card's heading; None: the repository's name.
        summary: what the model is for, in the user's words.
        limits: what it should not be used for.
        license: as the Hub spells it, `apache-2.0`.
        license_name: of a license that the Hub has no name for.
        license_link: where that one is.
        language: codes of the languages, `en` or `[en, ko]`.
        data: what the training data are, in words.
        datasets: the data sets' names on the Hub.
        base_model: the model that it was trained from, by its name on the Hub.
        tags: more tags.
        pipeline_tag: the Hub's name of the task, where the usual one does not fit.
        example: a text, or the words of a sentence, to show in place of the first test row.
    """

    repo_id: str | None = None
    revision: str | None = None
    title: str | None = None
    summary: str | None = None
    limits: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: str | list[str] | None = None
    data: str | None = None
    datasets: str | list[str] | None = None
    base_model: str | list[str] | None = None
    tags: list[str] | None = None
    pipeline_tag: str | None = None
    example: str | list[str] | None = None

    @classmethod
    def check_names(cls, names: Any) -> None:
        """Raises ValueError for a name that is no field; the message lists the fields, nearest first."""
        valid = [field.name for field in fields(cls)]
        for name in names:
            if name not in valid:
                raise ValueError(unknown("fact of the card", name, valid))


def write_card(
    directory: str | Path,
    given: Given | None = None,
    complete: bool = True,
    *,
    into: Path | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write README.md and the pictures on it into a saved model's directory.

    Args:
        directory: of a saved model, with what its run left there.
        given: what only the user knows.
        complete: draw the pictures, and run the code. Otherwise the card says what the configuration tells.
        into: where to write; None: into the directory.
        trust_remote_code: run the code for its use though the directory's code is somebody else's.

    Returns:
        The card.

    Raises:
        ValueError: no model of this package is saved there.
    """
    saved = read_saved(directory)
    given = with_given_to_the_run(saved, given)
    repo_id = given.repo_id or f"you/{saved.directory.absolute().name}"
    first = first_public(saved) if given.example is None else {}
    shown = prompt_of(saved.head, given.example or first.get("input"), saved.tokenizer.get("mask_token"))
    asked = "a text" if shown is None else shown
    code = usage_code(saved.head, repo_id, asked, given.revision or "main", saved.tagging)
    runs = complete and shown is not None
    output, agreement = printed(code, repo_id, saved, trust_remote_code) if runs else (NOT_MEASURED, None)
    into = saved.directory if into is None else into
    pictures = draw_pictures(saved, shown, into) if complete else []
    card = template().render(
        metadata=metadata(saved, given, repo_id, shown),
        title=given.title or repo_id.partition("/")[2] or repo_id,
        given=given,
        repo_id=repo_id,
        saved=saved,
        run=saved.run,
        data=data_name(saved, given),
        sentence=saved.head.sentence.format(labels=told_labels(saved)),
        example=example_lines(shown, first, output, saved.tagging.rule),
        code=code,
        output=output,
        agreement=agreement,
        results=result_rows(saved),
        tags=describe_scheme(saved.labels) if saved.head.pipeline_tag == "token-classification" else None,
        architecture=architecture_rows(saved),
        limits=limits(saved, given),
        pictures=pictures,
        version=__version__,
        missing=NOT_MEASURED,
        counted=counted,
        duration=duration,
    )
    path = into / "README.md"
    write_atomically(path, CONTROL.sub("\ufffd", card))
    if complete:
        logger.info("card: %s", path)
    return path


def with_given_to_the_run(saved: Saved, given: Given | None) -> Given:
    """What the user says now, and for the rest what was said to the run, which stands in its results.

    Raises:
        ValueError: what stands there is no fact of a card.
    """
    facts = saved.results.get("card_data") or {}
    try:
        Given.check_names(facts)
        return Given(**{**facts, **facts_of(given)})
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"{saved.directory / 'all_results.json'}: card_data: {error}") from error


def first_public(saved: Saved) -> dict[str, Any]:
    """The first row of the test split that holds no secret, which the card may show; empty where there is none."""
    known = dict(known_secrets({saved.directory.absolute()}))
    return next((row for row in saved.predictions if is_public(row, known)), {})


def facts_of(given: Given | None) -> dict[str, Any]:
    """What was given, by name."""
    return {name: value for name, value in vars(given or Given()).items() if value is not None}


@functools.cache  # it takes longer than all else of a card, which is written with every checkpoint that is pushed
def template() -> jinja2.Template:
    """The card's template; a name that it misses is an error."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["line"] = in_a_line
    environment.filters["changed"] = lambda value: f"{shown(value):.{CHANGED}}"
    environment.filters["cell"] = lambda value: in_a_line(value).replace("|", "\\|")
    return environment.from_string(Path(__file__).with_name("template.md").read_text(encoding="utf-8"))


def in_a_line(value: object) -> str:
    """A value as a heading or a cell of a table has it: what ends a line, or is no character, is a space."""
    return " ".join(CONTROL.sub(" ", str(value)).split())


def printed(code: str, repo_id: str, saved: Saved, trusted: bool = False) -> tuple[str, str | None]:
    """What the code prints, and whether it says of test rows what the run said of them.

    If it fails, or would run somebody else's code, the card is written all the same and says so.
    """
    rows = rows_of_each_label(saved)
    trial = trial_code([asking_code(saved.head, row["input"], saved.tagging) for row in rows])
    try:
        output, _, answers = run_checked(code + trial, repo_id, saved.directory, trusted).partition(MARK)
        agreeing = count_agreeing(rows, answers) if answers else None
    except (PublishError, ValueError) as error:
        logger.warning("The code on the card of %s fails: %s", saved.directory, error)
        return NOT_MEASURED, None
    if agreeing is None:
        return output, None
    return output.rstrip("\n"), agreement_of(saved, rows, agreeing)


def run_checked(code: str, repo_id: str, directory: Path, trusted: bool) -> str:
    """What the code prints with the files of a directory that are pushed, and no other.

    Raises:
        ValueError: it fails, or would run somebody else's code, which is not trusted.
        PublishError: see repository_files.
    """
    check_code(directory, trusted)
    with tempfile.TemporaryDirectory() as place:
        own = renewed_code(directory, Path(place, "code"), trusted)
        gather({**repository_files(directory), **own}, Path(place, "model"))
        return run_usage(code, repo_id, Path(place, "model"))


def agreement_of(saved: Saved, rows: list[dict[str, Any]], agreeing: int) -> str:
    """One sentence on how many of the rows got the answer of the run."""
    tried = told_rows(rows, len(saved.labels))
    if agreeing == len(rows):
        return f"On {tried} it says what the run said"
    said = f"On {len(rows) - agreeing} of {tried} it says something else than the run said"
    logger.warning("The code on the card of %s: %s", saved.directory, said)
    return said


def metadata(saved: Saved, given: Given, repo_id: str, example: Any) -> str:
    """The YAML at the top of the card, without the lines of dashes."""
    results = eval_results(saved, given)
    shows = example is not None and not is_pair(saved.head, example)
    widget = [{"text": as_text(example, saved.tagging.rule)}] if shows else None
    datasets = given.datasets or saved.results.get("dataset_id")
    data = ModelCardData(
        language=given.language,
        license=given.license,
        license_name=given.license_name,
        license_link=given.license_link,
        library_name="transformers",
        pipeline_tag=given.pipeline_tag or saved.head.pipeline_tag,
        tags=["seqblend", saved.config["model_type"], *(given.tags or [])],
        datasets=[datasets] if isinstance(datasets, str) else datasets,
        base_model=given.base_model,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=(repo_id.partition("/")[2] or repo_id) if results else None,
        eval_results=results or None,
        widget=widget,
    )
    return data.to_yaml()


def eval_results(saved: Saved, given: Given) -> list[EvalResult]:
    """Every metric that was measured, as the Hub's model-index has it."""
    head = saved.head
    name = data_name(saved, given)
    datasets = given.datasets or saved.results.get("dataset_id") or name.split()[0]
    return [
        EvalResult(
            task_type=given.pipeline_tag or head.pipeline_tag,
            task_name=head.task_name,
            dataset_type=datasets if isinstance(datasets, str) else datasets[0],
            dataset_name=name,
            dataset_split=split,
            metric_type=METRICS[key][0],
            metric_name=METRICS[key][1],
            metric_value=value,
        )
        for split, key, value in measured(saved)
    ]


def data_name(saved: Saved, given: Given) -> str:
    """What the data are called."""
    return in_a_line(given.data or saved.results.get("dataset", "")) or "data without a name"


def measured(saved: Saved) -> list[tuple[str, str, float]]:
    """Split, metric and value of all that was measured."""
    return [
        (split, key, saved.results[f"{prefix}_{key}"])
        for prefix, split in SPLITS.items()
        for key in METRICS
        if math.isfinite(saved.results.get(f"{prefix}_{key}", math.nan))
    ]


def result_rows(saved: Saved) -> list[tuple[str, str, str, str]]:
    """Split, number of rows, metric and value, as the table shows them."""
    sizes = {split: counted(saved.results.get(f"{prefix}_samples")) for prefix, split in SPLITS.items()}
    # Where the figure is something else, the note is of an earlier measurement.
    notes = {(split, "bleu", 0.0): saved.results.get(f"{prefix}_bleu_note") for prefix, split in SPLITS.items()}
    rows = []
    for split, key, value in measured(saved):
        note = notes.get((split, key, value))
        rows.append((split, sizes[split], METRICS[key][1], f"{value:.4f}" + (f": {note}" if note else "")))
    return rows


def counted(number: int | None) -> str:
    """A number with its thousands apart."""
    return f"{number:,}" if number else NOT_MEASURED


def duration(seconds: float) -> str:
    """A time as it is read."""
    return f"{seconds:.1f} seconds" if seconds < 60 else f"{seconds / 60:.1f} minutes"


def architecture_rows(saved: Saved) -> list[tuple[str, list[str]]]:
    """Name and values of the options; an encoder-decoder has a value for each part."""
    config = saved.config
    parts = [config[name] for name in ("encoder", "decoder") if name in config] or [config]
    rows = [(f"`{name}`", [str(part[name]) for part in parts]) for name in OPTIONS if parts[0].get(name) is not None]
    if len(parts) > 1:
        # What the heads read stands in the whole.
        rows = [row for row in rows if row[0] not in ("`pooling`", "`classifier_dropout`", "`label_smoothing`")]
        rows.append(("`label_smoothing`", [str(config["label_smoothing"])]))
    return rows


def told_labels(saved: Saved) -> str:
    """What a classifier gives, in words."""
    count, kind = len(saved.labels), saved.config.get("problem_type")
    if kind == "regression":
        return "a number" if count == 1 else f"{count} numbers"
    return f"those of {count} labels that fit" if kind == "multi_label_classification" else f"one of {count} labels"


def example_lines(example: Any, first: dict[str, Any], output: str, rule: str | None) -> list[tuple[str, str]]:
    """A real input, what the model said and what is right; empty where nothing is known."""
    if example is None:
        return []
    said = first.get("prediction")
    # One tag a word says little: what the code prints has the words beside them.
    if said is None or isinstance(said, list):
        return [("input", as_text(example, rule)), ("output", output)]
    reference = first["reference"]
    return [
        ("input", as_text(example)),
        ("output", str(said)),
        ("right", " | ".join(reference) if isinstance(reference, list) else str(reference)),
    ]


def quoted(name: str) -> str:
    """A name in one line, between backticks; more of them where it has some itself."""
    name = in_a_line(name)
    ticks = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    return f"{ticks}{name}{ticks}" if len(ticks) == 1 else f"{ticks} {name} {ticks}"


def limits(saved: Saved, given: Given) -> list[str]:
    """What is known of the model's limits."""
    results, lines = saved.results, [given.limits] if given.limits else []
    measuring = " and in measuring" if measured(saved) else ""
    if "train_samples" in results:
        rows = f"{counted(results['train_samples'])} rows of {data_name(saved, given)}"
        lines.append(
            f"It was trained on {rows}" + (", and measured on the splits above alone." if measured(saved) else ".")
        )
    lines += [f"{results[key]}." for prefix in SPLITS if results.get(key := f"{prefix}_leakage")]
    if "max_length" in results and saved.head.pipeline_tag != "text-generation":
        lines.append(f"What it reads was cut to {results['max_length']} tokens, in training{measuring}.")
    if saved.splitting is not None:
        lines.append(f"It tags words. Of the rules that divide a text into words, {saved.splitting}.")
    if saved.head.classifies and saved.config.get("problem_type") != "regression" and len(saved.labels) <= 60:
        lines.append("It knows these labels and no other: " + ", ".join(map(quoted, saved.labels)) + ".")
    return [*lines, f"Bias, robustness, and texts of another kind: {NOT_MEASURED}."]
