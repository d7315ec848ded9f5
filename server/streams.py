"""Text that is sent while it is generated, as server-sent events."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from fastapi.responses import StreamingResponse
from transformers import PreTrainedTokenizerBase

from ..data.kinds import ASSISTANT
from ..tasks.encoding import Answer
from .batching import Batcher, Job

# What a decoder writes for a character whose bytes are not all there.
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
# A byte of a character that the vocabulary does not have. A decoder reads the bytes in a row together.
BYTE = re.compile("<0x[0-9A-F]{2}>")
# The end of a text that `clean_up_tokenization_spaces` may still change: "do n" becomes "don't".
UNSURE = re.compile(r"(?: n)? *(?:'[vr]?)? *\Z")
# nginx collects a response before it sends it on, unless a header says otherwise.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Piece(NamedTuple):
    """A generated token and the text that it adds.

    Args:
        token: its id; None for text that no token is left for.
        text: the new text; empty while a character is incomplete, or the next token may change it.
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
        self.special = set(tokenizer.all_special_ids)
        self.tokens: list[int] = []
        self.text, self.has_ended, self.ends_in_byte = "", False, False

    def add(self, token: int) -> Piece | None:
        """The piece of the next token; None for an end token, and after it."""
        self.has_ended |= token in self.ends
        if self.has_ended:
            return None
        self.tokens.append(token)
        # None: a model may have more tokens than its tokenizer. Like special tokens they are not in the text.
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is not None and token not in self.special:
            self.ends_in_byte = BYTE.fullmatch(name) is not None
        text = self.sure_text()
        if not text.startswith(self.text):
            return Piece(token, "")
        new, self.text = text[len(self.text) :], text
        return Piece(token, new)

    def sure_text(self) -> str:
        """The text of the tokens so far that no further token changes."""
        text = self.tokenizer.decode(self.tokens, skip_special_tokens=True)
        if self.ends_in_byte or text.endswith(INCOMPLETE):
            return self.text
        return UNSURE.sub("", text, count=1) if self.tokenizer.clean_up_tokenization_spaces else text

    def rest(self, text: str) -> str:
        """What of the whole text has not been sent. Raises RuntimeError if something else was sent."""
        if not text.startswith(self.text):
            raise RuntimeError("the tokenizer decodes the beginning of the text otherwise than the whole")
        return text[len(self.text) :]


async def stream(
    batcher: Batcher, jobs: list[Job], tokens: "asyncio.Queue[int]", pieces: TextPieces
) -> AsyncIterator[Piece | Answer]:
    """The pieces of a request's only row, and its answer last.

    Args:
        batcher: computes the request.
        jobs: of the request; their listener puts its tokens into the queue.
        tokens: the queue.
        pieces: of the model's tokenizer.

    Raises:
        InputError: as in `Batcher.answers`.
        RuntimeError: the pieces are not the text.
    """
    loop = asyncio.get_running_loop()
    answers = asyncio.ensure_future(batcher.answers(jobs, batcher.predictor.settings))
    next_token = asyncio.ensure_future(tokens.get())
    try:
        while True:
            await asyncio.wait({next_token, answers}, return_when=asyncio.FIRST_COMPLETED)
            if not next_token.done():
                break
            piece = await loop.run_in_executor(batcher.texts, pieces.add, next_token.result())
            next_token = asyncio.ensure_future(tokens.get())
            if piece is not None:
                yield piece
        (answer,) = await answers
        if rest := pieces.rest(answer["prediction"]):
            yield Piece(None, rest)
        yield answer
    finally:
        # The client may have gone: nobody needs the answer.
        next_token.cancel()
        answers.cancel()
        await asyncio.gather(answers, return_exceptions=True)


def written_tokens(job: Job, ends: list[int]) -> tuple[int, bool]:
    """The number of tokens that were written for the only row of a job, and whether the last one ends the text."""
    tokens = job.outputs.result()[0][0]
    end = next((index for index, token in enumerate(tokens) if token in ends), None)
    return (len(tokens), False) if end is None else (end + 1, True)


def event(content: dict[str, Any]) -> str:
    """A server-sent event with JSON. It is ASCII, because clients split lines at characters such as U+2028, too."""
    return f"data: {json.dumps(content)}\n\n"


def event_response(events: AsyncIterator[str]) -> StreamingResponse:
    """A response of server-sent events."""
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


async def generation_events(
    pieces: AsyncIterator[Piece | Answer], response: Callable[[Answer], dict[str, Any]]
) -> AsyncIterator[str]:
    """The events of TGI: one a token; the last one has the whole text.

    Args:
        pieces: of `stream`.
        response: gives the JSON of the whole answer.
    """
    index = 0
    async for each in pieces:
        index += 1
        if isinstance(each, Piece):
            token = {"id": each.token, "text": each.text, "logprob": None, "special": False}
            yield event({"index": index, "token": token, "generated_text": None, "details": None})
        else:
            token = {"id": None, "text": "", "logprob": None, "special": True}
            yield event({"index": index, "token": token, "details": None, **response(each)})


async def chat_events(
    pieces: AsyncIterator[Piece | Answer],
    head: dict[str, Any],
    end: Callable[[], tuple[str, dict[str, int]]],
    has_usage: bool,
) -> AsyncIterator[str]:
    """The events of OpenAI: the role, the pieces of the text, and why it ends.

    Args:
        pieces: of `stream`.
        head: keys of every event.
        end: is asked at the end why it ends, and for the numbers of tokens.
        has_usage: whether one more event has these numbers.
    """
    head = {**head, "usage": None} if has_usage else head

    def chunk(delta: dict[str, str], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return event({**head, "choices": [choice]})

    yield chunk({"role": ASSISTANT, "content": ""})
    async for each in pieces:
        if not isinstance(each, Piece):
            reason, usage = end()
            yield chunk({}, reason)
            if has_usage:
                yield event({**head, "choices": [], "usage": usage})
        elif each.text:
            yield chunk({"role": ASSISTANT, "content": each.text})
    yield "data: [DONE]\n\n"
