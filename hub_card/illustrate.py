"""The pictures on a card: how training went, where the model errs, and what it blends into what."""

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

from .pictures import (
    SIDES,
    draw_blending,
    draw_confusion,
    draw_learning_curves,
    draw_score_by_length,
    draw_tag_scores,
)
from .saved import Saved
from .usage import as_text, is_pair

logger = logging.getLogger(__name__)

FOLDER = "pictures"
DRAWN = ("learning_curves.png", "confusion.png", "tags.png", "lengths.png", "blending.png")
# What the learning curves show beside the loss: the first of these that was measured.
CURVES = ("eval_f1", "eval_accuracy", "eval_micro_f1", "eval_exact_match", "eval_pearson", "eval_perplexity")
Picture = tuple[str, str]


def draw_pictures(saved: Saved, example: Any, into: Path) -> list[Picture]:
    """Draw what can be drawn of a saved model.

    Args:
        saved: what its directory tells.
        example: a real input for the attention map; None: there is none.
        into: where the folder of the pictures is made.

    Returns:
        File, relative to `into`, and caption of each picture.
    """
    folder = into / FOLDER
    folder.mkdir(exist_ok=True)
    for name in DRAWN:
        (folder / name).unlink(missing_ok=True)
    drawn = []
    for draw in (draw_training, DRAW_RESULTS.get(saved.head.pipeline_tag), partial(draw_attention, example=example)):
        try:
            drawn += draw(saved, folder) if draw is not None else []
        except Exception as error:  # a picture less is better than no card
            logger.warning("A picture for the card of %s cannot be drawn: %s", saved.directory, error)
    if not any(folder.iterdir()):
        folder.rmdir()
    return [(f"{FOLDER}/{name}", caption) for name, caption in drawn]


def draw_training(saved: Saved, folder: Path) -> list[Picture]:
    """Loss, and a metric where one was measured in training."""
    history = saved.state.get("log_history", [])
    metric = next((name for name in CURVES if any(name in entry for entry in history)), None)
    smoothing = saved.config.get("label_smoothing")
    note = f"in training with label smoothing {smoothing:g}, in validation without" if smoothing else None
    if not draw_learning_curves(history, folder / "learning_curves.png", metric=metric, note=note):
        return []
    beside = f" and validation {metric.removeprefix('eval_').replace('_', ' ')}" if metric else ""
    return [("learning_curves.png", f"Loss{beside} in the course of training")]


def sides(saved: Saved) -> tuple[list[Any], list[Any]]:
    """What is right of each row of the test split, and what the model said."""
    return [row["reference"] for row in saved.predictions], [row["prediction"] for row in saved.predictions]


def draw_classes(saved: Saved, folder: Path) -> list[Picture]:
    """Which labels are taken for which; for one label a row."""
    if not saved.predictions or saved.config.get("problem_type") != "single_label_classification":
        return []
    draw_confusion(*sides(saved), folder / "confusion.png")
    return [("confusion.png", "What the test split's rows are, and what they are taken for")]


def draw_tags(saved: Saved, folder: Path) -> list[Picture]:
    """How well each tag is told."""
    if not saved.predictions:
        return []
    draw_tag_scores(*sides(saved), folder / "tags.png", labels=saved.labels)
    return [("tags.png", "F1 of each tag on the test split")]


def draw_lengths(saved: Saved, folder: Path) -> list[Picture]:
    """How the length of a source tells on the result."""
    if not saved.predictions:
        return []
    lengths = [len(row["input"]) for row in saved.predictions]
    # Compared as Seq2SeqMetric does.
    nfc = partial(unicodedata.normalize, "NFC")
    scores = [
        float(nfc(said) in ([nfc(right)] if isinstance(right, str) else map(nfc, right)))
        for right, said in zip(*sides(saved), strict=True)
    ]
    draw_score_by_length(
        lengths, scores, folder / "lengths.png", length_name="characters of the source", score_name="exact match"
    )
    return [("lengths.png", "Exact match on the test split by the length of the source")]


DRAW_RESULTS: dict[str, Callable[[Saved, Path], list[Picture]]] = {
    "text-classification": draw_classes,
    "token-classification": draw_tags,
    "translation": draw_lengths,
}


def draw_attention(saved: Saved, folder: Path, example: Any) -> list[Picture]:
    """What the last layer blends into what, on a real input."""
    if example is None or not (saved.directory / "tokenizer_config.json").exists():
        return []
    tokenizer = AutoTokenizer.from_pretrained(saved.directory, trust_remote_code=False)
    with without_bar():
        auto_class = getattr(transformers, saved.head.auto_class)
        model = auto_class.from_pretrained(
            saved.directory, attn_implementation="eager", trust_remote_code=False, use_safetensors=True
        )
    texts = example if is_pair(saved.head, example) else [as_text(example, saved.tagging.rule)]
    weights, takers, taken, kind = attention_of(model.eval(), tokenizer, texts)
    names, told = SIDES, "each token (a row) takes of each other (a column)"
    if model.config.is_encoder_decoder and model.can_generate():
        names = ("token that is written (query)", "token of the source (key)")
        told = "each token that is written (a row) takes of each of the source (a column)"
    title = f"{kind} of the last layer, mean of its heads"
    draw_blending(weights, folder / "blending.png", queries=takers, keys=taken, title=title, names=names)
    return [("blending.png", f"Attention on a real input: how much {told}")]


@contextmanager
def without_bar() -> Iterator[None]:
    """Let transformers load a model without showing it: at the end of a run the user has asked for none."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()


@torch.no_grad()
def attention_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> tuple[np.ndarray, list[str], list[str], str]:
    """Attention of the last layer on a text, or a pair of texts.

    Returns:
        Weights (T, S), the mean over heads; what to draw for the T tokens that take, and for the S that are taken
        from; the kind of attention.
    """
    parts = [getattr(model.config, name) for name in model.config.sub_configs] or [model.config]
    length = min(64, *(part.max_position_embeddings for part in parts))
    texts = composed(tokenizer, texts)
    inputs = tokenizer(*texts, return_tensors="pt", truncation=True, max_length=length)
    source = tokens = read_tokens(tokenizer, inputs, texts)
    if not model.config.is_encoder_decoder:
        kind = "Masked self-attention" if model.config.model_type == "blend_decoder" else "Self-attention"
        weights = model(**inputs, output_attentions=True).attentions[-1]
    else:
        kind = "Cross-attention"
        if model.can_generate():
            written = model.generate(**inputs)
            inputs["decoder_input_ids"] = written[:, :-1]
            # Row t is the step that writes token t.
            tokens = written_tokens(tokenizer, written[0, 1:].tolist())
        weights = model(**inputs, output_attentions=True).cross_attentions[-1]
    return weights[0].float().mean(0).numpy(), tokens, source, kind


def composed(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[str]:
    """The texts in NFC where the tokenizer reads them as the same; else as they are.

    The offsets of a letter that the tokenizer itself composes leave out its marks.
    """
    nfc = [unicodedata.normalize("NFC", text) for text in texts]
    same = tokenizer(*nfc, verbose=False)["input_ids"] == tokenizer(*texts, verbose=False)["input_ids"]
    return nfc if same else texts


def read_tokens(tokenizer: PreTrainedTokenizerBase, inputs: BatchEncoding, texts: list[str]) -> list[str]:
    """What to draw for each token of one input: the slice of the text that it comes from, see `drawn_token`.

    Args:
        tokenizer: that made the inputs.
        inputs: of one text or one pair of texts, with tensors (1, S).
        texts: the one or two texts.
    """
    ids = inputs["input_ids"][0].tolist()
    if not tokenizer.is_fast:  # it has no offsets
        return written_tokens(tokenizer, ids)
    sequences, offsets = inputs.sequence_ids(0), inputs.encodings[0].offsets
    return [
        drawn_token(tokenizer, token, "" if sequence is None else texts[sequence][start:end])
        for token, sequence, (start, end) in zip(ids, sequences, offsets, strict=True)
    ]


def written_tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """What to draw for each token that a model wrote: the slice of the decoded text that it adds, see `drawn_token`.

    A character of several tokens, which only the last of them completes, stands at each of them.
    """
    decode = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text, drawn = decode(ids), []
    for count, token in enumerate(ids):
        before, after = decode(ids[:count]), decode(ids[: count + 1])
        start, end = shared_length(before, text), shared_length(after, text)
        is_half = end < len(after)  # it ends in a sign for the beginning of a character
        drawn.append(drawn_token(tokenizer, token, text[start : end + is_half]))
    return drawn


def shared_length(first: str, second: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def drawn_token(tokenizer: PreTrainedTokenizerBase, token: int, part: str) -> str:
    """What to draw for a token that comes from `part` of a text, or adds it.

    Returns:
        That part without spaces around it; one space for a token that only begins a word; the name of a special token;
        of an id beyond the tokenizer, which a model may have, the number.
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
