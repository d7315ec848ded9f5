"""Shapes that write a text: N2M of an encoder-decoder and of a decoder alone."""

import abc
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ..data.errors import InputError
from ..modeling.attention import Role
from ..tasks.causal_lm import prompt_of
from ..tasks.encoding import Row, Settings, shorten_texts
from .recording import record
from .shapes import DECODER, ENCODER, NEXT, EncodedRow, Result, Setup, Shape, TokenSequence, start_of, to_answer
from .tokens import MOST_MARKS, Token, token_text, written_tokens


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
