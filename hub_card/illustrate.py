"""The pictures for a card: learning curves, errors on the test split, and attention, which shows what is blended.

Matplotlib takes long to import, so each function imports its part of `pictures.py` when it draws.
"""

import logging
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from ..data.objects import read_object
from .saved import SavedModel
from .usage import as_text, is_conversation, is_pair

logger = logging.getLogger(__name__)

FOLDER = "pictures"
# The bins of the reliability picture, by split, which a run with --calibrate writes.
CALIBRATION = "calibration.json"
DRAWN = ("learning_curves.png", "confusion.png", "tags.png", "lengths.png", "reliability.png", "blending.png")
# The metric in the learning curves beside the loss: the first of these that was logged.
CURVES = ("eval_f1", "eval_accuracy", "eval_micro_f1", "eval_exact_match", "eval_pearson", "eval_perplexity")
Picture = tuple[str, str]


def draw_pictures(saved: SavedModel, example: Any, into: Path) -> list[Picture]:
    """Draw all pictures for which a saved model has the data.

    Args:
        saved: the directory of the model.
        example: an input for the attention map; None: no attention map.
        into: where the folder of the pictures is created.

    Returns:
        File, relative to `into`, and caption of each picture.
    """
    folder = into / FOLDER
    folder.mkdir(exist_ok=True)
    for name in DRAWN:
        (folder / name).unlink(missing_ok=True)
    drawn = []
    results = DRAW_RESULTS.get(saved.head.pipeline_tag)
    for draw in (draw_training, results, draw_calibration, partial(draw_attention, example=example)):
        try:
            drawn += draw(saved, folder) if draw is not None else []
        except Exception as error:  # Matplotlib, transformers and damaged files of the run raise errors of any class
            logger.warning("A picture for the card of %s cannot be drawn: %s", saved.directory, error)
            logger.debug("The error is:", exc_info=error)
    if not any(folder.iterdir()):
        folder.rmdir()
    return [(f"{FOLDER}/{name}", caption) for name, caption in drawn]


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
    """The confusion matrix, for classification with one label per row."""
    from .pictures import draw_confusion

    if not saved.predictions or saved.config.get("problem_type") != "single_label_classification":
        return []
    draw_confusion(*references_and_predictions(saved), folder / "confusion.png")
    return [("confusion.png", "Confusion matrix on the test split")]


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


def draw_attention(saved: SavedModel, folder: Path, example: Any) -> list[Picture]:
    """The attention map of the last layer for an input: which tokens it blends."""
    from .pictures import AXIS_LABELS, draw_blending

    if example is None or not (saved.directory / "tokenizer_config.json").exists():
        return []
    tokenizer = AutoTokenizer.from_pretrained(saved.directory, trust_remote_code=False)
    with no_progress_bar():
        auto_class = getattr(transformers, saved.head.auto_class)
        model = auto_class.from_pretrained(
            saved.directory, attn_implementation="eager", trust_remote_code=False, use_safetensors=True
        )
    config = model.config
    if not (config.decoder.has_cross_attention if config.is_encoder_decoder else config.has_attention):
        return []
    texts = example if is_pair(saved.head, example) else [as_text(example, saved.tagging.rule)]
    if is_conversation(example):
        texts = [tokenizer.apply_chat_template(example, add_generation_prompt=True, tokenize=False)]
    weights, queries, keys, kind = compute_attention(model.eval(), tokenizer, texts)
    names, caption = AXIS_LABELS, "how much each token (row) attends to each other token (column)"
    if model.config.is_encoder_decoder and model.can_generate():
        names = ("generated token (query)", "source token (key)")
        caption = "how much each generated token (row) attends to each source token (column)"
    title = f"{kind} of the last layer, mean over heads"
    draw_blending(weights, folder / "blending.png", queries=queries, keys=keys, title=title, names=names)
    return [("blending.png", f"Attention for an example input: {caption}")]


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


@torch.no_grad()
def compute_attention(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> tuple[np.ndarray, list[str], list[str], str]:
    """Attention of the last layer for a text or a pair of texts.

    Returns:
        Weights (T, S), the mean over heads; the texts of the T query tokens and of the S key tokens; the kind of
        attention.
    """
    parts = [getattr(model.config, name) for name in model.config.sub_configs] or [model.config]
    length = min(64, *(part.max_position_embeddings for part in parts))
    texts = normalize(tokenizer, texts)
    inputs = tokenizer(*texts, return_tensors="pt", truncation=True, max_length=length)
    source = tokens = input_tokens(tokenizer, inputs, texts)
    if not model.config.is_encoder_decoder:
        kind = "Masked self-attention" if model.config.model_type == "blend_decoder" else "Self-attention"
        weights = model(**inputs, output_attentions=True).attentions[-1]
    else:
        kind = "Cross-attention"
        if model.can_generate():
            generated = model.generate(**inputs)
            inputs["decoder_input_ids"] = generated[:, :-1]
            # Row t is the step that generates token t.
            tokens = generated_tokens(tokenizer, generated[0, 1:].tolist())
        weights = model(**inputs, output_attentions=True).cross_attentions[-1]
    return weights[0].float().mean(0).numpy(), tokens, source, kind


def normalize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[str]:
    """The texts in NFC if the tokenizer gives them the same ids; else unchanged.

    If the tokenizer itself applies NFC, the offsets of a letter do not include its combining marks.
    """
    nfc = [unicodedata.normalize("NFC", text) for text in texts]
    is_same = tokenizer(*nfc, verbose=False)["input_ids"] == tokenizer(*texts, verbose=False)["input_ids"]
    return nfc if is_same else texts


def input_tokens(tokenizer: PreTrainedTokenizerBase, inputs: BatchEncoding, texts: list[str]) -> list[str]:
    """The text of each token of an input: the slice of the text that it comes from, see `token_text`.

    Args:
        tokenizer: the tokenizer of the inputs.
        inputs: of one text or one pair of texts, with tensors (1, S).
        texts: the one or two texts.
    """
    ids = inputs["input_ids"][0].tolist()
    if not tokenizer.is_fast:  # a slow tokenizer has no offsets
        return generated_tokens(tokenizer, ids)
    sequences, offsets = inputs.sequence_ids(0), inputs.encodings[0].offsets
    return [
        token_text(tokenizer, token, "" if sequence is None else texts[sequence][start:end])
        for token, sequence, (start, end) in zip(ids, sequences, offsets, strict=True)
    ]


def generated_tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """The text of each generated token: the slice of the decoded text that it adds, see `token_text`.

    If a character consists of several tokens, each of them has the whole character.
    """
    decode = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text, tokens = decode(ids), []
    for count, token in enumerate(ids):
        before, after = decode(ids[:count]), decode(ids[: count + 1])
        start, end = common_prefix_length(before, text), common_prefix_length(after, text)
        is_partial = end < len(after)  # it ends with the replacement character, for the first part of a character
        tokens.append(token_text(tokenizer, token, text[start : end + is_partial]))
    return tokens


def common_prefix_length(first: str, second: str) -> int:
    """The length of the common prefix of two texts, in characters."""
    pairs = zip(first, second, strict=False)
    return next((position for position, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def token_text(tokenizer: PreTrainedTokenizerBase, token: int, part: str) -> str:
    """The text to draw for a token.

    Args:
        tokenizer: of the token.
        token: its id.
        part: the part of a text that the token comes from, or adds.

    Returns:
        The part without spaces around it; one space for a token that only starts a word; the name of a special token;
        the number of an id that the tokenizer does not have.
    """
    (name,) = tokenizer.convert_ids_to_tokens([token])
    if name is None:
        return str(token)
    if token in tokenizer.all_special_ids:
        return name
    alone = tokenizer.decode([token])
    if not alone.strip():
        return part if part.isspace() else " "
    return part.strip() or alone
