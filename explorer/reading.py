"""Shapes whose answer is read from one forward pass: N21 (classes) and N2N (words or masks)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..modeling.attention import Role
from ..scoring.tags import OUTSIDE
from ..tasks.encoding import Answer, Row, Settings, shorten_texts, with_cut
from ..tasks.models import part_configs
from ..tasks.sequence_classification import REGRESSION
from ..tasks.token_classification import words_to_tokenize
from ..tokenization.words import DEFAULT, join_words, read_splitting
from .attribution import gradient_times_input, pooled_share, rollout
from .recording import Recording, record
from .shapes import CLASSES, DECODER, ENCODER, NEXT, EncodedRow, Result, Setup, Shape, as_json, start_of, to_answer
from .tokens import SplitText


class ReadingShape(Shape):
    """A shape whose answer is read from one forward pass."""

    def compute(self, encoded: EncodedRow, setup: Setup) -> Result:
        """The first tokens are shown, or the last ones where the answer is read from these."""
        length = len(encoded.tokens)
        shown = slice(0, min(setup.most, length))
        if reads_end(setup):
            shown = slice(max(0, length - setup.most), length)
        visible = {ENCODER: shown, DECODER: shown}
        positions = encoded.features.get("positions", [np.empty(0, dtype=int)])
        with torch.inference_mode(), record(setup.model, visible) as recording:
            (output,) = setup.task.run_model(setup.model, encoded.inputs(setup), list(positions), setup.settings, {})
        return Result(output, recording, visible)


def reads_end(setup: Setup) -> bool:
    """Whether a sequence is classified by a vector at its end."""
    return "problem_type" in setup.task.options and setup.model.config.pooling in ("last", "last_non_pad", "eos")


class Classes(ReadingShape):
    """N21: classes with probabilities, or numbers; and how much of the classified vector came from each token."""

    kind = "classes"

    def texts(self, row: Row, settings: Settings) -> Sequence[str]:
        """A text or a pair of texts."""
        seconds = [row["text_pair"]] if "text_pair" in row else None
        texts, pairs, _ = shorten_texts(settings, [row["text"]], seconds, settings.max_length)
        return [*texts, *(pairs or [])]

    def compute(self, encoded: EncodedRow, setup: Setup) -> Result:
        """As for every shape that reads; and the two attributions."""
        result = super().compute(encoded, setup)
        settings, recording = setup.settings, result.recording
        answer = to_answer(encoded, result.output, setup)
        scores = [*scores_of(answer, settings).items()]
        classes = [settings.label_ids[name] for name, _ in scores[:CLASSES]]
        gradients = gradient_times_input(setup.model, encoded.inputs(setup), classes)
        result.more = {"answer": answer, "scores": scores, "gradients": on_input(gradients, recording, encoded.ids)}
        if not any(part.is_recurrent for part in part_configs(setup.model.config)):
            share = pooled_share(setup.model.config, encoded.ids)
            shares = rollout(recording, share, DECODER if DECODER in recording.ids else ENCODER)
            result.more["rollout"] = on_input(shares, recording, encoded.ids)
        return result

    def answer(self, encoded: EncodedRow, result: Result, setup: Setup) -> dict[str, Any]:
        """The classes, the highest score first; for the first ones the gradient × input of each token."""
        answer, more = result.more["answer"], result.more
        predicted = answer["prediction"] if isinstance(answer["prediction"], list) else [answer["prediction"]]
        labels = [{"label": name, "score": score, "predicted": name in predicted} for name, score in more["scores"]]
        for label, gradient in zip(labels, more["gradients"].tolist(), strict=False):
            label["gradient"] = gradient
        tokens = encoded.tokens
        if more["gradients"].shape[-1] > len(tokens):
            tokens = [start_of(result.recording.ids[DECODER], setup.settings), *tokens]
        return {
            "labels": labels,
            "isNumber": setup.settings.problem_type == REGRESSION,
            "abstains": answer.get("abstains", False),
            "tokens": as_json(tokens),
            "rollout": more["rollout"].tolist() if "rollout" in more else None,
            "pooling": setup.model.config.pooling,
        }

    def notes(self, result: Result, setup: Setup) -> list[str]:
        """That some classes are left out, if they are."""
        shown, total = len(result.more["scores"]), len(setup.settings.labels)
        return [f"The {shown} most probable of {total} classes are shown."] if shown < total else []


def scores_of(answer: Answer, settings: Settings) -> dict[str, float]:
    """The scores of an answer by label; of a regression its numbers."""
    if "scores" in answer:
        return dict(answer["scores"])
    return dict(zip(settings.labels, np.atleast_1d(answer["prediction"]).tolist(), strict=True))


def on_input(values: dict[Role, torch.Tensor], recording: Recording, ids: list[int]) -> torch.Tensor:
    """Values of the tokens of each stack, (…, T), summed for each token of the input, which both stacks read.

    Where a decoder reads the input shifted right by one, after a start token that is not in the input, the sum has the
    value of that token first.
    """
    total = torch.zeros(())
    start = None
    for role, each in values.items():
        if recording.ids[role] != ids:
            start, each = each[..., :1], torch.cat([each[..., 1:], torch.zeros_like(each[..., :1])], dim=-1)
            if recording.ids[role][0] == ids[-1]:
                # The last token of the input is also read first.
                start, each[..., -1:] = None, start
        total = total + each
    return total if start is None else torch.cat([start, total], dim=-1)


class Words(ReadingShape):
    """N2N: a tag for each word."""

    kind = "words"

    def texts(self, row: Row, settings: Settings) -> SplitText:
        """The words, and the text that they stand in."""
        (words,), _ = words_to_tokenize(settings, [row["tokens"]])
        text, spans = text_and_spans(row, settings)
        return SplitText(text, spans, words)

    def answer(self, encoded: EncodedRow, result: Result, setup: Setup) -> dict[str, Any]:
        """The words with their tags."""
        row = {name: value for name, value in encoded.row.items() if name != "spans"}
        (answer,) = setup.task.to_answers([result.output], [0], [row], setup.settings)
        text, spans = text_and_spans(encoded.row, setup.settings)
        items = [
            {"text": text[start:end], "label": tag, "score": score, "isOutside": tag in OUTSIDE}
            for (start, end), tag, score in zip(spans, answer["prediction"], answer["scores"], strict=True)
        ]
        return {**placed(items, text, spans, encoded, result, setup), "empty": "The text has no word."}


def text_and_spans(row: Row, settings: Settings) -> tuple[str, list[tuple[int, int]]]:
    """The text of a row of words, and start and end of each word in it."""
    if "spans" in row:
        return row["text"], row["spans"]
    splitting = read_splitting(settings.tokenizer.init_kwargs)
    return join_words(row["tokens"], DEFAULT if splitting is None else splitting.rule)


def placed(
    items: list[dict[str, Any]],
    text: str,
    spans: Sequence[tuple[int, int]],
    encoded: EncodedRow,
    result: Result,
    setup: Setup,
) -> dict[str, Any]:
    """Items of a text, each with the text before it and its token among the shown ones; and the text after all.

    An item that was not read, or whose token is not shown, has no token.
    """
    shown = next(iter(result.visible.values()))
    (read,) = encoded.features["positions"]
    positions = with_cut(read.tolist(), len(items), None, setup.settings.tokenizer)
    ends = [0, *(end for _, end in spans)]
    for index, (item, position) in enumerate(zip(items, positions, strict=True)):
        item["before"] = text[ends[index] : spans[index][0]]
        is_shown = position is not None and shown.start <= position < shown.stop
        item["token"] = position - shown.start if is_shown else None
    return {"items": items, "after": text[ends[-1] :]}


class Masks(ReadingShape):
    """N2N of a masked language model: the most probable tokens for each mask."""

    kind = "words"

    def answer(self, encoded: EncodedRow, result: Result, setup: Setup) -> dict[str, Any]:
        """The masks with their tokens; a mask that was not read has none."""
        answer, text = to_answer(encoded, result.output, setup), encoded.row["text"]
        spans = [(mask["start"], mask["end"]) for mask in answer["masks"]]
        items = [
            {
                "text": text[mask["start"] : mask["end"]],
                "best": [[each["text"], each["score"]] for each in mask["predictions"][:NEXT]],
            }
            for mask in answer["masks"]
        ]
        mask = setup.settings.tokenizer.mask_token
        return {
            **placed(items, text, spans, encoded, result, setup),
            "empty": f"The text has no mask; a mask is {mask}.",
        }
