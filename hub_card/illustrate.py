"""The pictures for a card: learning curves, errors on the test split, and attention, also as a page to explore.

Matplotlib takes long to import, so each function imports its part of `pictures.py` when it draws.
"""

import logging
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from ..data.objects import read_object
from ..data.writing import write_atomically
from ..explorer.explorer import MOST_READ, TITLES, Explorer
from ..explorer.page import page
from ..scoring.tags import resolve_decoding
from ..tasks.models import default_generation, position_limit, prepare_for_asking, saved_settings, task_of
from ..tokenization.words import DEFAULT, split_text
from .saved import SavedModel
from .usage import HEADS, is_conversation, is_pair

logger = logging.getLogger(__name__)

FOLDER = "pictures"
# The page of the explorer, beside the card.
EXPLORER = "explore.html"
# The bins of the reliability picture, by split, which a run with --calibrate writes.
CALIBRATION = "calibration.json"
DRAWN = ("learning_curves.png", "confusion.png", "labels.png", "tags.png", "lengths.png", "reliability.png")
DRAWN += ("blending.png",)
# The metric in the learning curves beside the loss: the first of these that was logged.
CURVES = ("eval_f1", "eval_accuracy", "eval_micro_f1", "eval_exact_match", "eval_pearson", "eval_perplexity")
Picture = tuple[str, str]


def draw_pictures(saved: SavedModel, example: Any, name: str, into: Path) -> list[Picture]:
    """Draw all pictures for which a saved model has the data, and write the page of the explorer.

    Args:
        saved: the directory of the model.
        example: an input for the attention map and the explorer; None: there are none.
        name: of the model.
        into: where the folder of the pictures is created.

    Returns:
        File, relative to `into`, and caption of each picture.
    """
    folder = into / FOLDER
    folder.mkdir(exist_ok=True)
    for path in (into / EXPLORER, *(folder / each for each in DRAWN)):
        path.unlink(missing_ok=True)
    drawn = []
    results = DRAW_RESULTS.get(saved.head.pipeline_tag)
    for draw in (draw_training, results, draw_calibration, partial(draw_attention, example=example, name=name)):
        try:
            drawn += draw(saved, folder) if draw is not None else []
        except Exception as error:  # Matplotlib, transformers and damaged files of the run raise errors of any class
            logger.warning("A picture for the card of %s cannot be drawn: %s", saved.directory, error)
            logger.debug("The error is:", exc_info=error)
    if not any(folder.iterdir()):
        folder.rmdir()
    return [(f"{FOLDER}/{file}", caption) for file, caption in drawn]


def draw_training(saved: SavedModel, folder: Path) -> list[Picture]:
    """The learning curves: losses, and a metric if one was logged."""
    from .pictures import draw_learning_curves

    history = saved.state.get("log_history", [])
    metric = next((name for name in CURVES if any(name in entry for entry in history)), None)
    smoothing = saved.config.get("label_smoothing")
    note = f"The training loss has label smoothing {smoothing:g}, the validation loss has none." if smoothing else None
    if not draw_learning_curves(history, folder / "learning_curves.png", metric=metric, note=note):
        return []
    metric_name = f" and validation {metric.removeprefix('eval_').replace('_', ' ')}" if metric else ""
    return [("learning_curves.png", f"Loss{metric_name} during training")]


def references_and_predictions(saved: SavedModel) -> tuple[list[Any], list[Any]]:
    """The references and the predictions of the test split."""
    return [row["reference"] for row in saved.predictions], [row["prediction"] for row in saved.predictions]


def draw_classes(saved: SavedModel, folder: Path) -> list[Picture]:
    """The scores of each label, and for classification with one label per row the confusion matrix."""
    from .pictures import draw_confusion, draw_label_scores

    kind = saved.config.get("problem_type")
    if not saved.predictions or kind not in ("single_label_classification", "multi_label_classification"):
        return []
    drawn, sides = [], references_and_predictions(saved)
    if kind == "single_label_classification":
        draw_confusion(*sides, folder / "confusion.png")
        drawn.append(("confusion.png", "Confusion matrix on the test split"))
        sides = tuple([[label] for label in side] for side in sides)
    draw_label_scores(*sides, folder / "labels.png")
    return [*drawn, ("labels.png", "Precision, recall and F1 of labels on the test split")]


def draw_tags(saved: SavedModel, folder: Path) -> list[Picture]:
    """The F1 of each tag or type of span."""
    from .pictures import draw_tag_scores

    if not saved.predictions:
        return []
    draw_tag_scores(*references_and_predictions(saved), folder / "tags.png", labels=saved.labels)
    return [("tags.png", "F1 of each tag on the test split")]


def draw_lengths(saved: SavedModel, folder: Path) -> list[Picture]:
    """The exact match by the length of the source."""
    from .pictures import draw_score_by_length

    if not saved.predictions:
        return []
    lengths = [len(row["input"]) for row in saved.predictions]
    # As in Seq2SeqMetric.
    nfc = partial(unicodedata.normalize, "NFC")
    scores = [
        float(nfc(prediction) in ([nfc(reference)] if isinstance(reference, str) else map(nfc, reference)))
        for reference, prediction in zip(*references_and_predictions(saved), strict=True)
    ]
    draw_score_by_length(
        lengths, scores, folder / "lengths.png", length_name="characters of the source", score_name="exact match"
    )
    return [("lengths.png", "Exact match on the test split by the length of the source")]


def draw_calibration(saved: SavedModel, folder: Path) -> list[Picture]:
    """Confidence and accuracy, before and after calibration."""
    from .pictures import draw_reliability

    bins = read_object(saved.directory / CALIBRATION)
    split = next((name for name in ("test", "validation") if name in bins), None)
    if split is None:
        return []
    draw_reliability(bins[split], folder / "reliability.png", split=split)
    return [("reliability.png", f"Confidence and accuracy on the {split} split, before and after calibration")]


DRAW_RESULTS: dict[str, Callable[[SavedModel, Path], list[Picture]]] = {
    "text-classification": draw_classes,
    "token-classification": draw_tags,
    "translation": draw_lengths,
}


def draw_attention(saved: SavedModel, folder: Path, example: Any, name: str) -> list[Picture]:
    """The attention map of the last layer for an input, and beside the folder the page of the explorer."""
    from .pictures import AXIS_LABELS, draw_blending

    has_tokenizer = (saved.directory / "tokenizer_config.json").exists()
    if example is None or not has_tokenizer or saved.head is HEADS[""]:
        return []
    explorer = load_explorer(saved, name)
    encoded = explorer.read(row_of(saved, example))
    result = explorer.compute(encoded)
    data = explorer.data(encoded, result)
    write_atomically(folder.parent / EXPLORER, page(data))
    if not data["attention"]:
        return []
    kind = data["attention"][-1]
    rows, columns = ([token["text"] for token in kind[axis]] for axis in ("rows", "columns"))
    names, caption = AXIS_LABELS, "how much each token (row) attends to each other token (column)"
    if kind["role"] == "cross" and data["kind"] == "written":
        names = ("generated token (query)", "source token (key)")
        caption = "how much each generated token (row) attends to each source token (column)"
    weights = result.recording.of(kind["role"])[-1].weights.mean(0).numpy()
    title = f"{TITLES[kind['role']][0]} of the last layer, mean over heads"
    shown = kind["rowsShown"], kind["columnsShown"]
    path = folder / "blending.png"
    draw_blending(weights, path, queries=rows, keys=columns, title=title, names=names, shown=shown)
    return [("blending.png", f"Attention for an example input: {caption}")]


def load_explorer(saved: SavedModel, name: str) -> Explorer:
    """The explorer of a saved model, which answers as in its run."""
    tokenizer = AutoTokenizer.from_pretrained(saved.directory, trust_remote_code=False)
    with no_progress_bar():
        auto_class = getattr(transformers, saved.head.auto_class)
        model = auto_class.from_pretrained(saved.directory, trust_remote_code=False, use_safetensors=True).eval()
    task = task_of(model.config, saved.name)
    generation = default_generation(task, model, tokenizer)
    prepare_for_asking(task, model, tokenizer, generation)
    # As in prediction, no more is read than in training.
    trained = saved.results.get("max_length")
    longest = trained if isinstance(trained, int) and trained > 1 else MOST_READ
    length = min(longest, MOST_READ, position_limit(model.config) - generation.get("max_new_tokens", 0))
    settings = saved_settings(
        task, model.config, tokenizer, int(length), decode_tags=resolve_decoding(saved.results.get("decode_tags"))
    )
    return Explorer(model, task, settings, generation, name)


def row_of(saved: SavedModel, example: Any) -> dict[str, Any]:
    """The row of an example: a text, a pair of texts, words or messages."""
    if is_conversation(example):
        return {"messages": example}
    if is_pair(saved.head, example):
        return dict(zip(("text", "text_pair"), example, strict=True))
    if not saved.head.labels_words:
        return {"source" if saved.head.pipeline_tag == "translation" else "text": example}
    return {"tokens": example} if isinstance(example, list) else split_text(example, saved.tagging.rule or DEFAULT)


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Inside the block, transformers shows no progress bar while it loads a model."""
    is_enabled = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if is_enabled:
            enable_progress_bar()
