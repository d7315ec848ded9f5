"""Text that is sent while it is generated, as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ..data.errors import InputError
from ..tasks.encoding import Answer
from .batching import Batcher, Job

# What a decoder writes for a character whose bytes are not all there.
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Piece(NamedTuple):
    """A generated token and the text that it adds.

    Args:
        token: its id; None for text that no token is left for.
        text: the new text; empty while a character is incomplete.
    """

    token: int | None
    text: str


class TextPieces:
    """Turns tokens into pieces of text that together are the text of all tokens.

    Args:
        tokenizer: decodes.
        ends: the ids of the tokens that end a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: list[int]):
        self.tokenizer, self.ends = tokenizer, ends
        self.tokens: list[int] = []
        self.text, self.has_ended = "", False

    def add(self, token: int) -> Piece | None:
        """The piece of the next token; None for an end token, and after it."""
        self.has_ended |= token in self.ends
        if self.has_ended:
            return None
        self.tokens.append(token)
        text = self.tokenizer.decode(self.tokens, skip_special_tokens=True)
        if text.endswith(INCOMPLETE) or not text.startswith(self.text):
            return Piece(token, "")
        new, self.text = text[len(self.text) :], text
        return Piece(token, new)

    def rest(self, text: str) -> str:
        """What of the whole text has not been sent."""
        return text[len(self.text) :] if text.startswith(self.text) else ""


async def stream(
    batcher: Batcher, job: Job, tokens: "asyncio.Queue[int]", pieces: TextPieces
) -> AsyncIterator[Piece | Answer]:
    """The pieces of a job's only row, and its answer last.

    Args:
        batcher: computes the job.
        job: with a listener that puts its tokens into the queue.
        tokens: the queue.
        pieces: of the model's tokenizer.

    Raises:
        InputError: as in `Batcher.answers`.
    """
    answers = asyncio.ensure_future(batcher.answers(job, batcher.predictor.settings))
    try:
        while True:
            next_token = asyncio.ensure_future(tokens.get())
            await asyncio.wait({next_token, answers}, return_when=asyncio.FIRST_COMPLETED)
            if not next_token.done():
                next_token.cancel()
                break
            piece = pieces.add(next_token.result())
            if piece is not None:
                yield piece
        (answer,) = await answers
        if rest := pieces.rest(answer["prediction"]):
            yield Piece(None, rest)
        yield answer
    finally:
        # The client may have gone: nobody needs the answer.
        answers.cancel()
        job.outputs.cancel()


def event(content: dict[str, Any]) -> str:
    """A server-sent event with JSON."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def generation_events(pieces: AsyncIterator[Piece | Answer], response: Any) -> AsyncIterator[str]:
    """The events of TGI: one a token; the last one has the whole text.

    Args:
        pieces: of `stream`.
        response: the JSON of the whole answer, as a function of the answer.
    """
    index = 0
    try:
        async for each in pieces:
            if isinstance(each, Piece):
                index += 1
                token = {"id": each.token, "text": each.text, "logprob": None, "special": False}
                yield event({"index": index, "token": token, "generated_text": None, "details": None})
            else:
                token = {"id": None, "text": "", "logprob": None, "special": True}
                yield event({"index": index + 1, "token": token, "details": None, **response(each)})
    except InputError as error:
        yield event({"error": str(error), "error_type": "validation"})


async def chat_events(pieces: AsyncIterator[Piece | Answer], head: dict[str, Any], reason: Any) -> AsyncIterator[str]:
    """The events of OpenAI: the role, the pieces of the text, and why it ends.

    Args:
        pieces: of `stream`.
        head: keys of every event.
        reason: why the text ended, as a function without arguments, asked at the end.
    """

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return event({**head, "choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for each in pieces:
            if isinstance(each, Piece):
                if each.text:
                    yield chunk({"role": "assistant", "content": each.text})
            else:
                yield chunk({}, reason())
    except InputError as error:
        yield event({"error": str(error), "error_type": "validation"})
    yield "data: [DONE]\n\n"
