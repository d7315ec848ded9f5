"""The model card: what a model does, its results, and how it was trained, from the files in its directory.

Every fact on a card has a source. The user gives some (`CardData`); a callback records the training
(`record.RunRecord`, in trainer_state.json); results are read from all_results.json and predictions.jsonl. The example
code is run before it is printed, and the pictures are drawn from these files.
"""

import functools
import logging
import math
import os
import re
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ..configuration.checks import unknown_name_message
from ..configuration.recipe_config import ATTENTION_FIELDS, has_attention
from ..data.writing import write_atomically
from ..scoring.tags import describe_scheme, resolve_decoding, tag_constraints
from ..version import __version__
from .agreement import SEPARATOR, count_agreeing, describe_rows, rows_of_each_label, run_usage, trial_code
from .contents import PublishError, link_files, repository_files
from .illustrate import EXPLORER, draw_pictures
from .provenance import check_code, update_code
from .record import format_value
from .saved import SavedModel, read_saved
from .secrecy import is_public, known_secrets
from .usage import Head, as_text, inference_code, is_conversation, is_pair, make_prompt, usage_code

logger = logging.getLogger(__name__)

NOT_MEASURED = "not measured"
# `owner/name`, or `name` of one of the Hub's oldest repositories. Paths begin otherwise, or have more parts.
HUB_NAME = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*")
# Control characters, which are not part of a text.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# The placeholder in the cards of transformers.utils.hub.create_and_tag_model_card.
STUB = "[More Information Needed]"
# For each metric its name on the Hub and its name on the card.
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
    "expected_calibration_error": ("expected_calibration_error", "Expected calibration error"),
    "brier_score": ("brier_score", "Brier score"),
    "negative_log_likelihood": ("negative_log_likelihood", "Negative log-likelihood"),
    "known_accuracy": ("accuracy", "Accuracy (an abstention counts as wrong)"),
    "coverage": ("coverage", "Share of rows that are answered"),
    "selective_precision": ("precision", "Share of answers that are right"),
    "unknown_recall": ("recall", "Recall of out-of-scope texts"),
    "unknown_auroc": ("roc_auc", "AUROC of out-of-scope texts"),
    "perplexity": ("perplexity", "Perplexity"),
    "loss": ("loss", "Loss"),
}
SPLITS = {"eval": "validation", "test": "test"}
# The fields of the configuration in the table of the card.
OPTIONS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "mixer_type", "recurrent_size", "cross_attention"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "feed_forward_type", "hidden_act", "norm_type", "norm_position", "position_type"),
    *("relative_attention_num_buckets", "embedding_size", "affix_buckets", "share_layers"),
    *("sliding_window", "pooling", "hidden_dropout", "attention_dropout", "classifier_dropout", "label_smoothing"),
    "class_weights",
)
# The maximal length of a value in the table of changes, in characters.
MAX_VALUE_LENGTH = 60


@strict
@dataclass
class CardData:
    """Facts about a model that only the user knows. All are optional.

    Args:
        repo_id: `user/name`.
        revision: the branch that the model is pushed to.
        title: the heading of the card; None: the name of the repository.
        summary: what the model is for.
        limits: what it should not be used for.
        license: as the Hub spells it, `apache-2.0`.
        license_name: of a license that the Hub does not list.
        license_link: to the text of that license.
        language: codes of the languages, `en` or `[en, ko]`.
        data: a description of the training data.
        datasets: names of the data sets on the Hub.
        base_model: name on the Hub of the model that training started from.
        tags: additional tags.
        pipeline_tag: the task on the Hub, if it is not the usual one for the head.
        example: a text, the words of a sentence, or messages, shown instead of the first test row.
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
    example: str | list[str] | list[dict[str, str]] | None = None

    def check_base_model(self) -> None:
        """Raises ValueError if base_model is a path of this machine."""
        named = self.base_model or []
        for name in [named] if isinstance(named, str) else named:
            if not hub_names(name):
                raise ValueError(f"base_model: {name!r} is not the name of a repository on the Hub")

    @classmethod
    def check_names(cls, names: Any) -> None:
        """Raises ValueError for an unknown field; the message lists the fields, nearest first."""
        valid = [field.name for field in fields(cls)]
        for name in names:
            if name not in valid:
                raise ValueError(unknown_name_message("field of card_data", name, valid))


def write_card(
    directory: str | Path,
    card_data: CardData | None = None,
    complete: bool = True,
    *,
    original: Path | None = None,
    into: Path | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write README.md, its pictures and the page of the explorer into the directory of a saved model.

    Args:
        directory: of a saved model, with the files that its run wrote.
        card_data: facts from the user.
        complete: also draw the pictures and run the example code.
        original: the directory of the same model in its original format; the card is for that, and written there.
        into: where to write instead.
        trust_remote_code: run the example code even if the directory holds foreign code (see provenance.py).

    Returns:
        The path of the card.

    Raises:
        ValueError: the directory does not hold a model of this package, or a file of the run is damaged.
    """
    saved = read_saved(directory, original)
    card_data = merge_card_data(saved, card_data)
    repo_id = card_data.repo_id or f"you/{saved.directory.absolute().name}"
    row = first_public_row(saved) if card_data.example is None else {}
    prompt = make_prompt(saved.head, card_data.example or row.get("input"), saved.tokenizer.get("mask_token"))
    example = "a text" if prompt is None else prompt
    code = usage_code(
        saved.head,
        repo_id,
        example,
        card_data.revision or "main",
        saved.tagging,
        has_code=saved.original is None,
        tokenizer_options=saved.tokenizer_options,
    )
    can_run = complete and prompt is not None
    output, agreement = try_usage(code, repo_id, saved, trust_remote_code) if can_run else (NOT_MEASURED, None)
    into = saved.repository if into is None else into
    title = card_data.title or repo_id.partition("/")[2] or repo_id
    pictures = draw_pictures(saved, prompt, title, into) if complete else []
    card = load_template().render(
        metadata=metadata(saved, card_data, repo_id, prompt),
        title=title,
        card_data=card_data,
        repo_id=repo_id,
        saved=saved,
        run=saved.run,
        data=data_name(saved, card_data),
        base_model=", ".join(map(code_span, base_models(card_data))),
        sentence=saved.head.sentence.format(labels=describe_labels(saved)),
        example=example_lines(saved.head, prompt, row, output, saved.tagging.rule),
        code=code,
        output=output,
        agreement=agreement,
        results=result_rows(saved),
        tags=describe_tags(saved),
        architecture=architecture_rows(saved),
        limits=limits(saved, card_data),
        pictures=pictures,
        explorer=EXPLORER if complete and (into / EXPLORER).exists() else None,
        version=__version__,
        missing=NOT_MEASURED,
        format_count=format_count,
        format_duration=format_duration,
    )
    path = into / "README.md"
    write_atomically(path, CONTROL.sub("\ufffd", card))
    if complete and original is None:
        logger.info("card: %s", path)
    return path


def replace_stub(directory: Path, repo_id: str) -> None:
    """Replace the card that transformers writes for `model.push_to_hub`; any other card is left unchanged."""
    path = directory / "README.md"
    if path.exists() and STUB not in path.read_text(encoding="utf-8"):
        return
    tags = ModelCard.load(path).data.tags if path.exists() else None
    write_card(directory, CardData(repo_id=repo_id, tags=tags or None), complete=False)


def merge_card_data(saved: SavedModel, card_data: CardData | None) -> CardData:
    """The given facts; those that are not given are taken from the results of the run.

    Raises:
        ValueError: card_data in the results has an unknown field or a wrong value.
    """
    recorded = saved.results.get("card_data") or {}
    given = {name: value for name, value in vars(card_data or CardData()).items() if value is not None}
    try:
        CardData.check_names(recorded)
        return CardData(**{**recorded, **given})
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"{saved.directory / 'all_results.json'}: card_data: {error}") from error


def first_public_row(saved: SavedModel) -> dict[str, Any]:
    """The first row of the test split without a secret, which the card may show; empty if there is none."""
    known = dict(known_secrets({saved.directory.absolute()}))
    return next((row for row in saved.predictions if is_public(row, known)), {})


@functools.cache  # parsing takes most of the time of a card, and every pushed checkpoint has one
def load_template() -> jinja2.Template:
    """The template of the card; an undefined name in it is an error."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["line"] = one_line
    environment.filters["changed"] = lambda value: f"{format_value(value):.{MAX_VALUE_LENGTH}}"
    environment.filters["cell"] = lambda value: one_line(value).replace("|", "\\|")
    return environment.from_string(Path(__file__).with_name("template.md").read_text(encoding="utf-8"))


def one_line(value: object) -> str:
    """A value as one line, for a heading or a table cell: line ends and control characters become spaces."""
    return " ".join(CONTROL.sub(" ", str(value)).split())


def try_usage(code: str, repo_id: str, saved: SavedModel, trusted: bool = False) -> tuple[str, str | None]:
    """Run the example code, and compare its outputs for test rows with the predictions of the run.

    If the code fails, or if the directory holds foreign code that is not trusted, a warning is logged.

    Returns:
        The output, or NOT_MEASURED; and a sentence on the comparison, or None if nothing was compared.
    """
    rows = rows_of_each_label(saved)
    trial = trial_code([inference_code(saved.head, row["input"], saved.tagging) for row in rows])
    try:
        output, _, answers = run_checked(code + trial, repo_id, saved.repository, trusted).partition(SEPARATOR)
        agreeing = count_agreeing(rows, answers) if answers else None
    except (PublishError, ValueError) as error:
        logger.warning("The code on the card of %s fails: %s", saved.name, error)
        return NOT_MEASURED, None
    if agreeing is None:
        return output, None
    return output.rstrip("\n"), describe_agreement(saved, rows, agreeing)


def run_checked(code: str, repo_id: str, directory: Path, trusted: bool) -> str:
    """The output of the code, run with only those files of a directory that are pushed.

    Raises:
        ValueError: the code fails, or the directory holds foreign code that is not trusted.
        PublishError: see repository_files.
    """
    check_code(directory, trusted)
    with tempfile.TemporaryDirectory() as temporary:
        updated = update_code(directory, Path(temporary, "code"), trusted)
        link_files({**repository_files(directory), **updated}, Path(temporary, "model"))
        return run_usage(code, repo_id, Path(temporary, "model"))


def describe_tags(saved: SavedModel) -> str | None:
    """How tags are scored and chosen; None for a model that does not tag."""
    if not saved.head.labels_words:
        return None
    return describe_scheme(saved.labels, saved.scheme, resolve_decoding(saved.results.get("decode_tags")))


def describe_agreement(saved: SavedModel, rows: list[dict[str, Any]], agreeing: int) -> str:
    """A sentence on how many of the tested rows got the prediction of the run; a difference is logged as well."""
    tested = describe_rows(rows, len(saved.labels))
    if agreeing == len(rows):
        return f"The code was also run on {tested}: it gives the predictions of the run"
    different = f"{len(rows) - agreeing} of {len(rows)} predictions differ from those of the run"
    decoding = resolve_decoding(saved.results.get("decode_tags"))
    if saved.head.labels_words and tag_constraints(saved.labels, saved.scheme, decoding) is not None:
        return f"The code was also run on {tested}: {different}, because a pipeline chooses each tag on its own"
    logger.warning("The code on the card of %s was run on %s: %s", saved.name, tested, different)
    return f"The code was also run on {tested}: {different}"


def metadata(saved: SavedModel, card_data: CardData, repo_id: str, example: Any) -> str:
    """The YAML at the top of the card, without the lines of dashes."""
    results = eval_results(saved, card_data)
    has_widget = example is not None and not is_pair(saved.head, example)
    widget = [widget_input(saved, example)] if has_widget else None
    datasets = card_data.datasets or saved.results.get("dataset_id")
    kinds = ["seqblend", *([] if saved.original else [saved.config["model_type"]])]
    chat_tag = ["conversational"] if saved.head.answers_messages else []
    data = ModelCardData(
        language=card_data.language,
        license=card_data.license,
        license_name=card_data.license_name,
        license_link=card_data.license_link,
        library_name="transformers",
        pipeline_tag=card_data.pipeline_tag or saved.head.pipeline_tag,
        tags=[*kinds, *chat_tag, *(card_data.tags or [])],
        datasets=[datasets] if isinstance(datasets, str) else datasets,
        base_model=base_models(card_data) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=(repo_id.partition("/")[2] or repo_id) if results else None,
        eval_results=results or None,
        widget=widget,
    )
    return data.to_yaml()


def base_models(card_data: CardData) -> list[str]:
    """The names on the Hub of the models that training started from; no paths of this machine."""
    named = card_data.base_model or []
    return hub_names(*([named] if isinstance(named, str) else named))


def hub_names(*sources: str | None) -> list[str]:
    """Those of the sources of models that are repositories of the Hub; a directory, also a deleted one, is none."""
    names = [source for source in sources if source and not os.path.lexists(source)]
    return [name for name in names if HUB_NAME.fullmatch(name) and ".." not in name]


def widget_input(saved: SavedModel, example: Any) -> dict[str, Any]:
    """An example as an entry of the Hub's widget."""
    return {"messages": example} if is_conversation(example) else {"text": as_text(example, saved.tagging.rule)}


def eval_results(saved: SavedModel, card_data: CardData) -> list[EvalResult]:
    """Every measured metric, for the model-index of the Hub."""
    head = saved.head
    name = data_name(saved, card_data)
    datasets = card_data.datasets or saved.results.get("dataset_id") or name.split()[0]
    return [
        EvalResult(
            task_type=card_data.pipeline_tag or head.pipeline_tag,
            task_name=head.task_name,
            dataset_type=datasets if isinstance(datasets, str) else datasets[0],
            dataset_name=name,
            dataset_split=split,
            metric_type=METRICS[key][0],
            metric_name=METRICS[key][1],
            metric_value=value,
        )
        for split, key, value in measured_metrics(saved)
    ]


def data_name(saved: SavedModel, card_data: CardData) -> str:
    """The name of the data on the card."""
    return one_line(card_data.data or saved.results.get("dataset", "")) or "data without a name"


def measured_metrics(saved: SavedModel) -> list[tuple[str, str, float]]:
    """Split, metric and value of every measured metric."""
    return [
        (split, key, saved.results[f"{prefix}_{key}"])
        for prefix, split in SPLITS.items()
        for key in METRICS
        if math.isfinite(saved.results.get(f"{prefix}_{key}", math.nan))
    ]


def result_rows(saved: SavedModel) -> list[tuple[str, str, str, str]]:
    """Split, number of rows, metric and value for the table of results."""
    sizes = {split: format_count(saved.results.get(f"{prefix}_samples")) for prefix, split in SPLITS.items()}
    # The note explains a BLEU of 0. For another value it is left from an earlier measurement.
    notes = {(split, "bleu", 0.0): saved.results.get(f"{prefix}_bleu_note") for prefix, split in SPLITS.items()}
    rows = []
    for split, key, value in measured_metrics(saved):
        note = notes.get((split, key, value))
        rows.append((split, sizes[split], METRICS[key][1], f"{value:.4f}" + (f": {note}" if note else "")))
    return rows


def format_count(number: int | None) -> str:
    """A number with separated thousands."""
    return f"{number:,}" if number else NOT_MEASURED


def format_duration(seconds: float) -> str:
    """A time in seconds or minutes."""
    return f"{seconds:.1f} seconds" if seconds < 60 else f"{seconds / 60:.1f} minutes"


def answer_limits(saved: SavedModel) -> list[str]:
    """Sentences on thresholds: those of clients that read them, and what others do."""
    threshold, lines = saved.config.get("abstain_threshold"), []
    if threshold is not None:
        lines.append(
            f"The model abstains if its {saved.config.get('abstain_score')} is below {threshold:.3f}: seqblend marks "
            "such answers with `abstains`; other clients do not."
        )
    if saved.config.get("label_thresholds") is not None:
        lines.append(
            "Each label has its own threshold (`label_thresholds` in config.json). seqblend uses these thresholds; "
            "other clients use 0.5."
        )
    return lines


def architecture_rows(saved: SavedModel) -> list[tuple[str, list[str]]]:
    """Name and values of each field; an encoder-decoder has one value for each part."""
    config = saved.config
    parts = [config[name] for name in ("encoder", "decoder") if name in config] or [config]
    rows = []
    for name in OPTIONS:
        values = [option_value(part, name) for part in parts]
        if any(value is not None for value in values):
            rows.append((f"`{name}`", ["–" if value is None else str(value) for value in values]))
    if len(parts) > 1:
        # Fields of the heads are in the config of the whole model, not in its parts.
        rows = [row for row in rows if row[0] not in ("`pooling`", "`classifier_dropout`", "`label_smoothing`")]
        rows.append(("`label_smoothing`", [str(config["label_smoothing"])]))
    return rows


def option_value(part: dict[str, Any], name: str) -> Any:
    """The value of a field of a stack; None if it has no effect."""
    reads_encoder = part.get("cross_attention_hidden_size") is not None
    if name in ATTENTION_FIELDS and not has_attention(part, reads_encoder=reads_encoder):
        return None
    return part.get(name) if name != "cross_attention" or reads_encoder else None


def describe_labels(saved: SavedModel) -> str:
    """The output of a classifier, in words."""
    count, kind = len(saved.labels), saved.config.get("problem_type")
    if kind == "regression":
        return "a number" if count == 1 else f"{count} numbers"
    if kind != "multi_label_classification":
        return f"one of {count} labels"
    threshold = "0.5" if saved.config.get("label_thresholds") is None else "their own threshold"
    return f"any number of {count} labels: those with a score above {threshold}"


def example_lines(
    head: Head, example: Any, row: dict[str, Any], output: str, rule: str | None
) -> list[tuple[str, str]]:
    """An input, the output of the model and the reference, each with its name; empty without an example."""
    if example is None:
        return []
    lines = [("input", as_text(example, rule))]
    if is_pair(head, example):
        lines = list(zip(("text", "text_pair"), example, strict=True))
    prediction = row.get("prediction")
    # The prediction for a long input is that for the whole, and the example is shortened. A list of tags is hard to
    # read: the output of the code has the words beside them.
    if row.get("input") != example or prediction is None or isinstance(prediction, list):
        return [*lines, ("output", output)]
    reference = row["reference"]
    reference = " | ".join(reference) if isinstance(reference, list) else str(reference)
    return [*lines, ("output", str(prediction)), ("reference", reference)]


def code_span(name: str) -> str:
    """A name in one line between backticks, with more backticks if the name contains some."""
    name = one_line(name)
    ticks = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    return f"{ticks}{name}{ticks}" if len(ticks) == 1 else f"{ticks} {name} {ticks}"


def limits(saved: SavedModel, card_data: CardData) -> list[str]:
    """The known limits of the model, one sentence each."""
    results, lines = saved.results, [card_data.limits] if card_data.limits else []
    is_measured = bool(measured_metrics(saved))
    if "train_samples" in results:
        rows = f"{format_count(results['train_samples'])} rows of {data_name(saved, card_data)}"
        evaluation = " and evaluated only on the splits above" if is_measured else ""
        lines.append(f"The model was trained on {rows}{evaluation}.")
    lines += [f"{results[key]}." for prefix in SPLITS if results.get(key := f"{prefix}_leakage")]
    if "max_length" in results and saved.head.pipeline_tag != "text-generation":
        phases = "training and evaluation" if is_measured else "training"
        read = "read in windows of" if results.get("overflow") == "window" else "truncated to"
        lines.append(f"Inputs were {read} {results['max_length']} tokens in {phases}.")
    if saved.head.answers_messages and is_measured:
        lines.append("Loss and perplexity are computed from the tokens of the answers only.")
    lines += answer_limits(saved)
    if saved.splitting is not None:
        rule, share = saved.splitting
        reproduced = "the words" if share == 1 else f"{share:.1%} of the words"
        lines.append(
            f"The model labels words. Split texts into words by the rule {rule!r}, which reproduces {reproduced} of "
            f"the training data{'' if share == 1 else '; no rule reproduces all of them'}."
        )
    if saved.head.classifies and saved.config.get("problem_type") != "regression" and len(saved.labels) <= 60:
        lines.append(f"The model predicts only these labels: {', '.join(map(code_span, saved.labels))}.")
    return [*lines, f"Bias, robustness and performance on other kinds of text: {NOT_MEASURED}."]
