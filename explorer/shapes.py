"""What is computed and shown of a row: of N21 (classes), N2N (words or masks) and N2M (a text that is written)."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedModel

from ..modeling.attention import Role
from ..tasks.base import Task
from ..tasks.causal_lm import prompt_of
from ..tasks.encoding import Answer, Row, Settings, shorten_texts
from ..tasks.models import part_configs
from ..tasks.token_classification import words_to_tokenize
from ..tokenization.words import DEFAULT, join_words, read_splitting
from .attribution import gradient_times_input, pooled_share, rollout
from .recording import Recording, record
from .tokens import SplitText, Token, input_tokens, token_text, written_texts, written_tokens

# The most classes that gradients are computed for, and the number of next tokens that are shown at each step.
CLASSES = NEXT = 5
# The kinds of self-attention, which name the two stacks.
ENCODER: Role = "self"
DECODER: Role = "masked self"


@dataclass(frozen=True)
class Question:
    """How a row is asked.

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
class Reading:
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

    def inputs(self, question: Question) -> BatchEncoding:
        """The tensors (1, S) that the model reads."""
        names = (*question.settings.tokenizer.model_input_names, "token_type_ids")
        known = {name: self.features[name] for name in names if name in self.features}
        return BatchEncoding(known, tensor_type="pt").to(question.model.device)


@dataclass
class Findings:
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
        keys: the tokens that it reads.
        queries: the tokens that name its queries: those that are written, or None for those that it reads.
    """

    name: str
    keys: list[Token]
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

    def read(self, row: Row, question: Question) -> Reading:
        """Tokenize a row."""
        features = question.task.read_rows([row], question.settings)
        texts = self.texts(row, question.settings)
        return Reading(row, features, input_tokens(question.settings.tokenizer, features, texts))

    @abc.abstractmethod
    def compute(self, reading: Reading, question: Question) -> Findings:
        """Compute the answer to a row, and record the attention."""

    @abc.abstractmethod
    def answer(self, reading: Reading, findings: Findings, question: Question) -> dict[str, Any]:
        """The answer as the page shows it."""

    def sequences(self, reading: Reading, findings: Findings, settings: Settings) -> dict[Role, TokenSequence]:
        """The tokens of each stack: of the input, which the decoder may read shifted by one."""
        found = {}
        for role, ids in findings.recording.ids.items():
            tokens = reading.tokens
            if ids != reading.ids:
                tokens = [Token(token_text(settings.tokenizer, ids[0], ""), is_special=True), *tokens[:-1]]
            found[role] = TokenSequence("token", tokens)
        return found


def to_answer(reading: Reading, output: Any, question: Question) -> Answer:
    """The answer of `seqblend predict`."""
    (answer,) = question.task.to_answers([output], [0], [reading.row], question.settings)
    return answer


def as_json(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Tokens for the page, without the fields that are False."""
    return [{name: value for name, value in vars(token).items() if value is not False} for token in tokens]


# --- From one forward pass ---


class ReadingShape(Shape):
    """A shape whose answer is read from one forward pass."""

    def compute(self, reading: Reading, question: Question) -> Findings:
        """The first tokens are shown, or the last ones where the answer is read from these."""
        length = len(reading.tokens)
        shown = slice(0, min(question.most, length))
        if reads_end(question):
            shown = slice(max(0, length - question.most), length)
        visible = {ENCODER: shown, DECODER: shown}
        positions = reading.features.get("positions", [np.empty(0, dtype=int)])
        with torch.inference_mode(), record(question.model, visible) as recording:
            (output,) = question.task.run_model(
                question.model, reading.inputs(question), list(positions), question.settings, {}
            )
        return Findings(output, recording, visible)


def reads_end(question: Question) -> bool:
    """Whether a sequence is classified by a vector at its end."""
    return "problem_type" in question.task.options and question.model.config.pooling in ("last", "eos")


class Classes(ReadingShape):
    """N21: classes with probabilities, or numbers; and how much of the classified vector came from each token."""

    kind = "classes"

    def texts(self, row: Row, settings: Settings) -> Sequence[str]:
        """A text or a pair of texts."""
        seconds = [row["text_pair"]] if "text_pair" in row else None
        texts, pairs, _ = shorten_texts(settings, [row["text"]], seconds, settings.max_length)
        return [*texts, *(pairs or [])]

    def compute(self, reading: Reading, question: Question) -> Findings:
        """As for every shape that reads; and the two attributions."""
        findings = super().compute(reading, question)
        settings, recording = question.settings, findings.recording
        best = sorted(scores_of(to_answer(reading, findings.output, question), settings).items(), key=lambda x: -x[1])
        classes = [settings.label_ids[name] for name, _ in best[:CLASSES]]
        gradients = gradient_times_input(question.model, reading.inputs(question), classes)
        findings.more = {"best": best, "gradients": on_input(gradients, recording, reading.ids)}
        if not any(part.is_recurrent for part in part_configs(question.model.config)):
            share = pooled_share(question.model.config, reading.ids)
            shares = rollout(recording, share, DECODER if DECODER in recording.ids else ENCODER)
            findings.more["rollout"] = on_input(shares, recording, reading.ids)
        return findings

    def answer(self, reading: Reading, findings: Findings, question: Question) -> dict[str, Any]:
        """The classes, the highest score first; for the first ones the gradient × input of each token."""
        answer, more = to_answer(reading, findings.output, question), findings.more
        predicted = answer["prediction"] if isinstance(answer["prediction"], list) else [answer["prediction"]]
        labels = [{"label": name, "score": score, "predicted": name in predicted} for name, score in more["best"]]
        for label, gradient in zip(labels, more["gradients"].tolist(), strict=False):
            label["gradient"] = gradient
        return {
            "labels": labels,
            "isNumber": question.settings.problem_type == "regression",
            "abstains": answer.get("abstains", False),
            "tokens": as_json(reading.tokens),
            "rollout": more["rollout"].tolist() if "rollout" in more else None,
            "pooling": question.model.config.pooling,
        }


def scores_of(answer: Answer, settings: Settings) -> dict[str, float]:
    """The scores of an answer by label; of a regression its numbers."""
    if "scores" in answer:
        return dict(answer["scores"])
    return dict(zip(settings.labels, np.atleast_1d(answer["prediction"]).tolist(), strict=True))


def on_input(values: dict[Role, torch.Tensor], recording: Recording, ids: list[int]) -> torch.Tensor:
    """Values of the tokens of each stack, (…, T), summed for each token of the input, which both stacks read."""
    total = torch.zeros(())
    for role, each in values.items():
        if recording.ids[role] != ids:  # shifted right by one
            each = torch.cat([each[..., 1:], torch.zeros_like(each[..., :1])], dim=-1)
        total = total + each
    return total


class Words(ReadingShape):
    """N2N: a tag for each word."""

    kind = "words"

    def texts(self, row: Row, settings: Settings) -> SplitText:
        """The words, and the text that they stand in."""
        (words,), _ = words_to_tokenize(settings, [row["tokens"]])
        text, spans = text_and_spans(row, settings)
        return SplitText(text, spans, words)

    def answer(self, reading: Reading, findings: Findings, question: Question) -> dict[str, Any]:
        """The words with their tags."""
        row = {name: value for name, value in reading.row.items() if name != "spans"}
        (answer,) = question.task.to_answers([findings.output], [0], [row], question.settings)
        text, spans = text_and_spans(reading.row, question.settings)
        items = [
            {"text": text[start:end], "label": tag, "score": score}
            for (start, end), tag, score in zip(spans, answer["prediction"], answer["scores"], strict=True)
        ]
        return placed(items, text, spans, reading, findings)


def text_and_spans(row: Row, settings: Settings) -> tuple[str, list[tuple[int, int]]]:
    """The text of a row of words, and start and end of each word in it."""
    if "spans" in row:
        return row["text"], row["spans"]
    splitting = read_splitting(settings.tokenizer.init_kwargs)
    return join_words(row["tokens"], DEFAULT if splitting is None else splitting.rule)


def placed(
    items: list[dict[str, Any]], text: str, spans: Sequence[tuple[int, int]], reading: Reading, findings: Findings
) -> dict[str, Any]:
    """Items of a text, each with the text before it and its token among the shown ones; and the text after all."""
    shown = next(iter(findings.visible.values()))
    positions, ends = reading.features["positions"][0].tolist(), [0, *(end for _, end in spans)]
    for index, item in enumerate(items):
        item["before"] = text[ends[index] : spans[index][0]]
        is_shown = index < len(positions) and shown.start <= positions[index] < shown.stop
        item["token"] = positions[index] - shown.start if is_shown else None
    return {"items": items, "after": text[ends[-1] :]}


class Masks(ReadingShape):
    """N2N of a masked language model: the most probable tokens for each mask."""

    kind = "words"

    def answer(self, reading: Reading, findings: Findings, question: Question) -> dict[str, Any]:
        """The masks with their tokens."""
        answer, text = to_answer(reading, findings.output, question), reading.row["text"]
        spans = [(mask["start"], mask["end"]) for mask in answer["masks"]]
        items = [
            {
                "text": text[mask["start"] : mask["end"]],
                "best": [[each["text"], each["score"]] for each in mask["predictions"][:NEXT]],
            }
            for mask in answer["masks"]
        ]
        return placed(items, text, spans, reading, findings)


# --- N2M ---


class WritingShape(Shape):
    """A shape that writes a text token by token; the steps are computed again in one forward pass."""

    kind = "written"

    @abc.abstractmethod
    def forward(self, reading: Reading, tokens: list[int], question: Question) -> torch.Tensor:
        """The logits (n, V) of the next token at each of n steps."""

    @abc.abstractmethod
    def visible(self, reading: Reading, count: int, question: Question) -> dict[Role, slice]:
        """The shown tokens of each stack, of which some are the first of `count` written ones."""

    @abc.abstractmethod
    def first_row(self, reading: Reading, findings: Findings) -> int:
        """The shown query of the decoder that writes the first token."""

    def compute(self, reading: Reading, question: Question) -> Findings:
        """Write the text, then record a forward pass that reads it."""
        model, inputs = question.model, reading.inputs(question)
        with torch.inference_mode():
            (output,) = question.task.run_model(model, inputs, [], question.settings, dict(question.generation))
        tokens = output[0]
        visible = self.visible(reading, len(tokens), question)
        with torch.inference_mode(), record(model, visible) as recording:
            logits = self.forward(reading, tokens, question)
        probabilities = logits.float().softmax(-1)
        best = probabilities.topk(min(NEXT, probabilities.shape[-1]))
        chosen = probabilities.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
        more = {"best": best.indices.tolist(), "scores": best.values.tolist(), "chosen": chosen.tolist()}
        return Findings(output, recording, visible, more)

    def answer(self, reading: Reading, findings: Findings, question: Question) -> dict[str, Any]:
        """The text, and each step that is shown: the text so far, its token, and the most probable tokens."""
        tokenizer, (ids, _), more = question.settings.tokenizer, findings.output, findings.more
        answer = to_answer(reading, findings.output, question)
        tokens, texts = written_tokens(tokenizer, ids), written_texts(tokenizer, ids)
        target, first = findings.visible[DECODER], self.first_row(reading, findings)
        steps = [
            {
                "text": texts[step + 1],
                "token": tokens[step].text,
                "probability": more["chosen"][step],
                "best": [
                    [token_text(tokenizer, token, ""), score, token == ids[step]]
                    for token, score in zip(more["best"][step], more["scores"][step], strict=True)
                ],
                "row": first + step,
            }
            for step in range(target.stop - target.start - first)
        ]
        return {"text": answer["prediction"], "score": answer["score"], "steps": steps, "total": len(ids)}


class Written(WritingShape):
    """N2M of an encoder-decoder: a target for a source."""

    def texts(self, row: Row, settings: Settings) -> Sequence[str]:
        """The source."""
        return shorten_texts(settings, [row["source"]], None, settings.max_source_length)[0]

    def visible(self, reading: Reading, count: int, question: Question) -> dict[Role, slice]:
        """The first tokens of source and target."""
        source = slice(0, min(question.most, len(reading.tokens)))
        return {ENCODER: source, DECODER: slice(0, min(question.most, count))}

    def first_row(self, reading: Reading, findings: Findings) -> int:
        """The first row: what the decoder reads first is its start token."""
        return 0

    def forward(self, reading: Reading, tokens: list[int], question: Question) -> torch.Tensor:
        """The decoder reads the start token, and each token but the last."""
        model = question.model
        read = torch.tensor([[start_token(model), *tokens[:-1]]], device=model.device)
        return model(**reading.inputs(question), decoder_input_ids=read, use_cache=False).logits[0]

    def sequences(self, reading: Reading, findings: Findings, settings: Settings) -> dict[Role, TokenSequence]:
        """The source; of the target each query is named by the token that it writes."""
        written = written_tokens(settings.tokenizer, findings.output[0])
        start = token_text(settings.tokenizer, findings.recording.ids[DECODER][0], "")
        return {
            ENCODER: TokenSequence("source token", reading.tokens),
            DECODER: TokenSequence("target token", [Token(start, is_special=True), *written[:-1]], written),
        }


def start_token(model: PreTrainedModel) -> int:
    """The token with which generation begins a target."""
    for config in (model.generation_config, model.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(getattr(config, name, None), int):
                return getattr(config, name)
    raise ValueError("the model has no decoder_start_token_id")


class Continued(WritingShape):
    """N2M of a decoder alone: it continues its input."""

    def texts(self, row: Row, settings: Settings) -> Sequence[str]:
        """The text, or that of the messages."""
        prompt = prompt_of(row, settings.tokenizer)
        return shorten_texts(settings, [prompt], None, settings.max_length)[0]

    def visible(self, reading: Reading, count: int, question: Question) -> dict[Role, slice]:
        """The last tokens of the prompt and the first written ones; half of them each, if both are long."""
        prompt, half = len(reading.tokens), question.most // 2
        written = min(count, max(half, question.most - prompt))
        # The last written token is read by no step.
        return {DECODER: slice(max(0, prompt - (question.most - written)), prompt + written - 1)}

    def first_row(self, reading: Reading, findings: Findings) -> int:
        """The last token of the prompt writes the first one."""
        return len(reading.tokens) - 1 - findings.visible[DECODER].start

    def forward(self, reading: Reading, tokens: list[int], question: Question) -> torch.Tensor:
        """The decoder reads the prompt, and each token but the last."""
        model = question.model
        read = torch.tensor([[*reading.ids, *tokens[:-1]]], device=model.device)
        return model(read, use_cache=False, logits_to_keep=len(tokens)).logits[0]

    def sequences(self, reading: Reading, findings: Findings, settings: Settings) -> dict[Role, TokenSequence]:
        """The prompt and what is written after it."""
        written = written_tokens(settings.tokenizer, findings.output[0])
        return {DECODER: TokenSequence("token", [*reading.tokens, *written[:-1]])}


# By the name of the task.
SHAPES: dict[str, Shape] = {
    "sequence-classification": Classes(),
    "token-classification": Words(),
    "masked-lm": Masks(),
    "seq2seq-lm": Written(),
    "causal-lm": Continued(),
}
