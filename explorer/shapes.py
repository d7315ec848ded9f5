"""What is computed and shown of a row: of N21 (classes), N2N (words or masks) and N2M (a text that is written)."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedModel

from ..data.errors import InputError
from ..modeling.attention import Role
from ..tasks.base import Task
from ..tasks.causal_lm import prompt_of
from ..tasks.encoding import Answer, Row, Settings, shorten_texts, with_cut
from ..tasks.models import part_configs
from ..tasks.sequence_classification import REGRESSION
from ..tasks.token_classification import words_to_tokenize
from ..tokenization.words import DEFAULT, join_words, read_splitting
from .attribution import gradient_times_input, pooled_share, rollout
from .recording import Recording, record
from .tokens import MOST_MARKS, SplitText, Token, input_tokens, token_text, written_tokens

# The most classes that gradients are computed for, and the number of next tokens that are shown at each step.
CLASSES = NEXT = 5
# The kinds of self-attention, which name the two stacks.
ENCODER: Role = "self"
DECODER: Role = "masked self"


@dataclass(frozen=True)
class Setup:
    """A model and how it is used.

    Args:
        model: in evaluation mode.
        task: of the model.
        settings: of the task.
        generation: arguments of `model.generate`.
        most: the most tokens of each sequence that are shown.
    """

    model: PreTrainedModel
    task: Task
    settings: Settings
    generation: Mapping[str, Any]
    most: int


@dataclass
class EncodedRow:
    """A row as input of the model.

    Args:
        row: as the task reads it.
        features: what `Task.read_rows` returned for it.
        tokens: of the input.
    """

    row: Row
    features: BatchEncoding
    tokens: list[Token]

    @property
    def ids(self) -> list[int]:
        """The ids of the input."""
        (ids,) = self.features["input_ids"]
        return list(ids)

    def inputs(self, setup: Setup) -> BatchEncoding:
        """The tensors (1, S) that the model reads."""
        names = (*setup.settings.tokenizer.model_input_names, "token_type_ids")
        known = {name: self.features[name] for name in names if name in self.features}
        return BatchEncoding(known, tensor_type="pt").to(setup.model.device)


@dataclass
class Result:
    """What was computed for a row.

    Args:
        output: of `Task.run_model`.
        recording: of the forward pass.
        visible: the tokens of each stack that are shown.
        more: what the shape needs besides.
    """

    output: Any
    recording: Recording
    visible: dict[Role, slice]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenSequence:
    """The tokens of a stack.

    Args:
        name: of its axis.
        keys: the tokens that it reads, as far as they may be shown.
        total: the number of all tokens that it reads.
        queries: the tokens that name its queries: those that are written, or None for those that it reads.
    """

    name: str
    keys: list[Token]
    total: int
    queries: list[Token] | None = None


class Shape(abc.ABC):
    """How the rows of a task are read, computed and shown.

    Attributes:
        kind: which part of the page shows the answer.
    """

    kind: ClassVar[str]

    def texts(self, row: Row, settings: Settings) -> Sequence[str] | SplitText:
        """What the tokenizer gets of a row."""
        return shorten_texts(settings, [row["text"]], None, settings.max_length)[0]

    def read(self, row: Row, setup: Setup) -> EncodedRow:
        """Tokenize a row."""
        features = setup.task.read_rows([row], setup.settings)
        texts = self.texts(row, setup.settings)
        return EncodedRow(row, features, input_tokens(setup.settings.tokenizer, features, texts))

    @abc.abstractmethod
    def compute(self, encoded: EncodedRow, setup: Setup) -> Result:
        """Compute the answer to a row, and record the attention."""

    @abc.abstractmethod
    def answer(self, encoded: EncodedRow, result: Result, setup: Setup) -> dict[str, Any]:
        """The answer as the page shows it."""

    def sequences(self, encoded: EncodedRow, result: Result, settings: Settings) -> dict[Role, TokenSequence]:
        """The tokens of each stack: of the input, which the decoder may read shifted by one."""
        found = {}
        for role, ids in result.recording.ids.items():
            tokens = encoded.tokens
            if ids != encoded.ids:
                tokens = [start_of(ids, settings), *tokens[:-1]]
            found[role] = TokenSequence("token", tokens, len(tokens))
        return found

    def notes(self, result: Result, setup: Setup) -> list[str]:
        """Sentences on how the answer came about, where that is not obvious."""
        return []


def to_answer(encoded: EncodedRow, output: Any, setup: Setup) -> Answer:
    """The answer of `seqblend predict`."""
    (answer,) = setup.task.to_answers([output], [0], [encoded.row], setup.settings)
    return answer


def as_json(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Tokens for the page, without the fields that are False or 0."""
    return [{name: value for name, value in vars(token).items() if value or name == "text"} for token in tokens]


# --- From one forward pass ---


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
    return "problem_type" in setup.task.options and setup.model.config.pooling in ("last", "eos")


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


def start_of(ids: list[int], settings: Settings) -> Token:
    """The start token, which a decoder reads first."""
    return Token(token_text(settings.tokenizer, ids[0], ""), is_special=True)


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
            {"text": text[start:end], "label": tag, "score": score}
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


# --- N2M ---


class WritingShape(Shape):
    """A shape that writes a text token by token; the shown steps are computed again in one forward pass."""

    kind = "written"

    @abc.abstractmethod
    def forward(self, encoded: EncodedRow, tokens: list[int], setup: Setup) -> torch.Tensor:
        """The logits (n, V) of the next token at each of n steps."""

    @abc.abstractmethod
    def visible(self, encoded: EncodedRow, count: int, setup: Setup) -> tuple[dict[Role, slice], int]:
        """The shown tokens of each stack, and how many of the `count` written ones are shown."""

    @abc.abstractmethod
    def first_row(self, encoded: EncodedRow, result: Result) -> int:
        """The shown query of the decoder that writes the first token."""

    def compute(self, encoded: EncodedRow, setup: Setup) -> Result:
        """Write the text, then record a forward pass that reads what is shown of it."""
        model, inputs = setup.model, encoded.inputs(setup)
        with torch.inference_mode():
            (output,) = setup.task.run_model(model, inputs, [], setup.settings, dict(setup.generation))
        visible, count = self.visible(encoded, len(output[0]), setup)
        tokens = output[0][:count]
        with torch.inference_mode(), record(model, visible) as recording:
            logits = self.forward(encoded, tokens, setup)
        probabilities = logits.float().softmax(-1)
        best = probabilities.topk(min(NEXT, probabilities.shape[-1]))
        chosen = probabilities.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
        more = {"tokens": tokens, "best": best.indices.tolist(), "scores": best.values.tolist()}
        return Result(output, recording, visible, {**more, "chosen": chosen.tolist()})

    def written(self, result: Result, settings: Settings) -> tuple[list[Token], list[str]]:
        """The shown tokens that were written, and the text after each of them; computed once."""
        if "written" not in result.more:
            count = len(result.more["tokens"])
            # What follows may complete a character of which only some tokens are shown.
            tokens, texts = written_tokens(settings.tokenizer, result.output[0][: count + MOST_MARKS])
            result.more["written"] = tokens[:count], texts[:count]
        return result.more["written"]

    def answer(self, encoded: EncodedRow, result: Result, setup: Setup) -> dict[str, Any]:
        """The text, and each step that is shown: the text so far, its token, and the most probable tokens."""
        (ids, _), more = result.output, result.more
        answer, first = to_answer(encoded, result.output, setup), self.first_row(encoded, result)
        tokens, texts = self.written(result, setup.settings)
        if len(tokens) == len(ids):
            texts = [*texts[:-1], answer["prediction"]]
        steps = [
            {
                "text": texts[step],
                "token": tokens[step].text,
                "probability": more["chosen"][step],
                "best": [
                    [token_text(setup.settings.tokenizer, token, ""), score, token == ids[step]]
                    for token, score in zip(more["best"][step], more["scores"][step], strict=True)
                ],
                "row": first + step,
            }
            for step in range(len(tokens))
        ]
        return {"text": answer["prediction"], "score": answer["score"], "steps": steps, "total": len(ids)}

    def notes(self, result: Result, setup: Setup) -> list[str]:
        """How the tokens were chosen, unless each is the most probable one."""
        config, given = setup.model.generation_config, setup.generation
        if given.get("do_sample", config.do_sample):
            return ["The text was drawn at random: another time it differs."]
        if (beams := given.get("num_beams", config.num_beams) or 1) > 1:
            return [f"The text was found by a search with {beams} beams, which does not always take the best token."]
        if any(token != best[0] for token, best in zip(result.more["tokens"], result.more["best"], strict=True)):
            return [
                "The model's own probabilities are shown. In places rules of generation, or rounding, chose others."
            ]
        return []


class Written(WritingShape):
    """N2M of an encoder-decoder: a target for a source."""

    def texts(self, row: Row, settings: Settings) -> Sequence[str]:
        """The source."""
        return shorten_texts(settings, [row["source"]], None, settings.max_source_length)[0]

    def visible(self, encoded: EncodedRow, count: int, setup: Setup) -> tuple[dict[Role, slice], int]:
        """The first tokens of source and target."""
        count = min(setup.most, count)
        return {ENCODER: slice(0, min(setup.most, len(encoded.tokens))), DECODER: slice(0, count)}, count

    def first_row(self, encoded: EncodedRow, result: Result) -> int:
        """The first row: what the decoder reads first is its start token."""
        return 0

    def forward(self, encoded: EncodedRow, tokens: list[int], setup: Setup) -> torch.Tensor:
        """The decoder reads the start token, and each token but the last."""
        model = setup.model
        read = torch.tensor([[start_token(model), *tokens[:-1]]], device=model.device)
        return model(**encoded.inputs(setup), decoder_input_ids=read, use_cache=False).logits[0]

    def sequences(self, encoded: EncodedRow, result: Result, settings: Settings) -> dict[Role, TokenSequence]:
        """The source; of the target each query is named by the token that it writes."""
        written, _ = self.written(result, settings)
        read = [start_of(result.recording.ids[DECODER], settings), *written[:-1]]
        return {
            ENCODER: TokenSequence("source token", encoded.tokens, len(encoded.tokens)),
            DECODER: TokenSequence("target token", read, len(result.output[0]), written),
        }


def start_token(model: PreTrainedModel) -> int:
    """The token with which generation begins a target. Raises InputError if there is none."""
    for config in (model.generation_config, model.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(getattr(config, name, None), int):
                return getattr(config, name)
    raise InputError("generation_config: has no decoder_start_token_id")


class Continued(WritingShape):
    """N2M of a decoder alone: it continues its input."""

    def texts(self, row: Row, settings: Settings) -> Sequence[str]:
        """The text, or that of the messages."""
        prompt = prompt_of(row, settings.tokenizer)
        return shorten_texts(settings, [prompt], None, settings.max_length)[0]

    def visible(self, encoded: EncodedRow, count: int, setup: Setup) -> tuple[dict[Role, slice], int]:
        """The last tokens of the prompt and the first written ones; half of them each, if both are long."""
        prompt, half = len(encoded.tokens), setup.most // 2
        count = min(count, max(half, setup.most - prompt))
        # The last written token is read by no step.
        return {DECODER: slice(max(0, prompt - (setup.most - count)), prompt + count - 1)}, count

    def first_row(self, encoded: EncodedRow, result: Result) -> int:
        """The last token of the prompt writes the first one."""
        return len(encoded.tokens) - 1 - result.visible[DECODER].start

    def forward(self, encoded: EncodedRow, tokens: list[int], setup: Setup) -> torch.Tensor:
        """The decoder reads the prompt, and each token but the last."""
        model = setup.model
        read = torch.tensor([[*encoded.ids, *tokens[:-1]]], device=model.device)
        return model(read, use_cache=False, logits_to_keep=len(tokens)).logits[0]

    def sequences(self, encoded: EncodedRow, result: Result, settings: Settings) -> dict[Role, TokenSequence]:
        """The prompt and what is written after it."""
        tokens = [*encoded.tokens, *self.written(result, settings)[0][:-1]]
        return {DECODER: TokenSequence("token", tokens, len(encoded.tokens) + len(result.output[0]) - 1)}


# By the name of the task.
SHAPES: dict[str, Shape] = {
    "sequence-classification": Classes(),
    "token-classification": Words(),
    "masked-lm": Masks(),
    "seq2seq-lm": Written(),
    "causal-lm": Continued(),
}
