"""Ask a trained model about rows that nobody has labelled: in their order, batched by length, in constant memory."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import BatchEncoding, EvalPrediction, PreTrainedModel

from ..tasks.base import TASKS
from ..tasks.encoding import OVERFLOW_COLUMNS, Answer, Settings, fill, tokenize
from ..tasks.sequence_classification import answer_sequences
from ..tasks.tags import find_scheme
from ..tasks.token_classification import tokenize_words, told_words, unread_label
from ..tasks.windows import OverflowCounts, join_logits
from ..tasks.words import word_spans

Row = dict[str, Any]
Places = list[np.ndarray]
# How many characters are read before the first of them is answered; a row counts for some more than it has.
READ_AHEAD, ROW = 2**18, 64
# How many words a mask could stand for are told.
BEST = 5


class Asked(NamedTuple):
    """How the models of a task are asked.

    Args:
        read: rows to what the model reads, as `tokenize` has it; `places` are the tokens asked about, if not all.
        ask: a batch (B, T) and its places to one output a sequence.
        answer: the outputs of sequences, the row that each is of, and the rows, to one answer a row.
        side: where a text that is too long is cut, and a short one padded; None: as the tokenizer has it, and right.
        generation: how a model writes where nothing else is said; None if it does not.
    """

    read: Callable[[list[Row], Settings], BatchEncoding]
    ask: Callable[[PreTrainedModel, BatchEncoding, Places, dict[str, int]], list[Any]]
    answer: Callable[[list[Any], list[int], list[Row], Settings], list[Answer]]
    side: str | None = None
    generation: dict[str, int] | None = None


@dataclass
class Predictor:
    """Answers rows.

    Args:
        task: the name of the model's.
        model: in evaluation mode.
        settings: what the tokenizer does.
        max_tokens: the most tokens, without padding, in a batch; a longer sequence is one alone.
        generation: for `model.generate`.
        overflow: what was too long so far.
    """

    task: str
    model: PreTrainedModel
    settings: Settings
    max_tokens: int
    generation: dict[str, int] = field(default_factory=dict)
    overflow: OverflowCounts = field(default_factory=OverflowCounts)

    def answers(self, rows: Iterable[Row]) -> Iterator[Answer]:
        """One answer a row, which begins with what the row says, in the order of the rows."""
        for chunk in read_ahead(rows):
            for row, answer in zip(chunk, self.answer(chunk), strict=True):
                inputs = [row["text"]] if "spans" in row else [row[n] for n in TASKS[self.task].inputs if n in row]
                yield {"input": inputs[0] if len(inputs) == 1 else inputs, **answer}

    @torch.inference_mode()
    def answer(self, rows: list[Row]) -> list[Answer]:
        """The answers to some rows, which are read together."""
        asked, tokenizer = ASKED[self.task], self.settings.tokenizer
        features = asked.read(rows, self.settings)
        self.overflow.add(**{name: features[name] for name in OVERFLOW_COLUMNS})
        sequences = {
            name: features[name] for name in (*tokenizer.model_input_names, "token_type_ids") if name in features
        }
        places = features.get("places", [np.empty(0, dtype=int)] * len(features["input_ids"]))
        outputs: list[Any] = [None] * len(places)
        for batch in batches_of([len(ids) for ids in features["input_ids"]], self.max_tokens):
            inputs = tokenizer.pad(
                {name: [values[index] for index in batch] for name, values in sequences.items()},
                padding_side=asked.side or "right",
                return_tensors="pt",
            ).to(self.model.device)
            found = asked.ask(self.model, inputs, [places[index] for index in batch], self.generation)
            for index, output in zip(batch, found, strict=True):
                outputs[index] = output
        return asked.answer(outputs, features["document"], rows, self.settings)


def read_ahead(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Some rows at a time: as many as have READ_AHEAD characters, and the one with which they have."""
    chunk, size = [], 0
    for row in rows:
        chunk.append(row)
        size += sum(ROW + sum(map(len, value)) for value in row.values())
        if size >= READ_AHEAD:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def batches_of(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """Indices of sequences of similar length, as many in a batch as have max_tokens together."""
    order = np.argsort(lengths, kind="stable")
    totals = np.asarray(lengths)[order].cumsum()
    starts = fill(totals, max(max_tokens, max(lengths)))
    return [batch.tolist() for batch in np.split(order, starts[1:])]


def by_document(outputs: list[Any], document: list[int]) -> list[list[Any]]:
    """The outputs of each document's sequences."""
    groups = itertools.groupby(zip(document, outputs, strict=True), key=lambda pair: pair[0])
    return [[output for _, output in group] for _, group in groups]


# --- Words of a text ---


def split_text(text: str, words: str) -> Row:
    """A row whose tokens are the words of a text, and whose spans say from where to where in it each stands.

    Args:
        text: any.
        words: one of WORDS.
    """
    spans = word_spans(text, words)
    return {"text": text, "tokens": [text[start:stop] for start, stop in spans], "spans": spans}


# --- Sequence classification ---


def read_texts(rows: list[Row], settings: Settings) -> BatchEncoding:
    pairs = [row["text_pair"] for row in rows] if "text_pair" in rows[0] else None
    return tokenize(settings, [row["text"] for row in rows], pairs)


def ask_logits(model: PreTrainedModel, inputs: BatchEncoding, places: Places, _: dict[str, int]) -> list[np.ndarray]:
    """The logits (C,) of each sequence."""
    return list(model(**inputs).logits.float().cpu().numpy())


def answer_texts(outputs: list[np.ndarray], document: list[int], rows: list[Row], settings: Settings) -> list[Answer]:
    """As in training; of a row in windows from the mean of their logits."""
    predicted = EvalPrediction(predictions=np.stack(outputs), label_ids=np.asarray(document))
    return answer_sequences(join_logits(predicted, np.asarray(document)), rows, settings)


# --- Token classification ---


def read_words(rows: list[Row], settings: Settings) -> BatchEncoding:
    features = tokenize_words(settings, [row["tokens"] for row in rows])
    features["places"] = [positions for positions, _ in told_words(features, settings)]
    return features


def ask_tags(model: PreTrainedModel, inputs: BatchEncoding, places: Places, _: dict[str, int]) -> list[np.ndarray]:
    """The most probable tag and its probability at each place, (n, 2)."""
    best = model(**inputs).logits.float().softmax(-1).max(-1)
    both = torch.stack((best.indices.float(), best.values), -1).cpu().numpy()  # (B, T, 2)
    return [row[place] for row, place in zip(both, places, strict=True)]


def answer_tags(outputs: list[np.ndarray], document: list[int], rows: list[Row], settings: Settings) -> list[Answer]:
    """One tag a word, where the row has words; the entities of its text, where it has one.

    Words that were cut off have no score, and are tagged as in training.
    """
    answers = []
    for row, parts in zip(rows, by_document(outputs, document), strict=True):
        told = np.concatenate(parts)
        unread = len(row["tokens"]) - len(told)
        tags = [settings.labels[int(tag)] for tag in told[:, 0]] + [unread_label(settings)] * unread
        scores = told[:, 1].tolist() + [None] * unread
        is_text = "spans" in row
        answers.append(
            {"entities": entities(tags, scores, row, settings.labels)}
            if is_text
            else {"prediction": tags, "scores": scores}
        )
    return answers


def entities(tags: list[str], scores: list[float | None], row: Row, labels: list[str]) -> list[dict[str, Any]]:
    """What the tags say about a text: spans, where they mark some, as the metric counts them; else each word but `O`.

    Returns:
        The label; `start` and `end` in the text, counted in characters; what stands there; and the mean of the words'
        probabilities.
    """
    scheme = find_scheme(labels)
    if scheme is not None:
        found = scheme.spans(tags)
    else:
        found = [(tag, index, index) for index, tag in enumerate(tags) if tag != "O"]
    answer = []
    for label, first, last in found:
        start, end = row["spans"][first][0], row["spans"][last][1]
        inside = scores[first : last + 1]
        score = None if None in inside else sum(inside) / len(inside)
        answer.append({"label": label, "start": start, "end": end, "text": row["text"][start:end], "score": score})
    return answer


# --- Models that write ---


def read_sources(rows: list[Row], settings: Settings) -> BatchEncoding:
    return tokenize(settings, [row["source"] for row in rows], max_length=settings.max_source_length)


def ask_texts(
    model: PreTrainedModel, inputs: BatchEncoding, places: Places, generation: dict[str, int]
) -> list[tuple[list[int], float]]:
    """The tokens that the model writes, and the geometric mean of their probabilities."""
    sequences = model.generate(**inputs, num_return_sequences=1, **generation)
    written = sequences[:, 1:]
    logits = model(**inputs, decoder_input_ids=sequences[:, :-1], use_cache=False).logits.float()
    chosen = logits.log_softmax(-1).gather(-1, written[..., None])[..., 0]  # (B, T)
    real = before_end(written, model.generation_config.eos_token_id)
    scores = ((chosen * real).sum(-1) / real.sum(-1)).exp()
    return list(zip(written.tolist(), scores.tolist(), strict=True))


def before_end(tokens: torch.Tensor, ends: int | list[int]) -> torch.Tensor:
    """Which tokens (B, T) are written: all up to the first end token, which counts too."""
    is_end = torch.isin(tokens, torch.as_tensor(ends, device=tokens.device))
    return is_end.cumsum(-1) - is_end.long() == 0


def answer_sources(
    outputs: list[tuple[list[int], float]], document: list[int], rows: list[Row], settings: Settings
) -> list[Answer]:
    texts = settings.tokenizer.batch_decode([tokens for tokens, _ in outputs], skip_special_tokens=True)
    return [{"prediction": text, "score": score} for text, (_, score) in zip(texts, outputs, strict=True)]


def read_prompts(rows: list[Row], settings: Settings) -> BatchEncoding:
    """As texts are read in training: an end token after the prompt would begin another text."""
    return tokenize(settings, [row["text"] for row in rows], add_special_tokens=False)


def ask_continuations(
    model: PreTrainedModel, inputs: BatchEncoding, places: Places, generation: dict[str, int]
) -> list[list[int]]:
    """The tokens that follow."""
    sequences = model.generate(**inputs, num_return_sequences=1, **generation)
    return sequences[:, inputs["input_ids"].shape[1] :].tolist()


def answer_prompts(outputs: list[list[int]], document: list[int], rows: list[Row], settings: Settings) -> list[Answer]:
    """What follows the text, without it."""
    texts = settings.tokenizer.batch_decode(outputs, skip_special_tokens=True)
    return [{"prediction": text} for text in texts]


# --- Masked language models ---


def read_masked(rows: list[Row], settings: Settings) -> BatchEncoding:
    features = tokenize(settings, [row["text"] for row in rows])
    mask = settings.tokenizer.mask_token_id
    features["places"] = [np.flatnonzero(np.equal(ids, mask)) for ids in features["input_ids"]]
    return features


def ask_fills(
    model: PreTrainedModel, inputs: BatchEncoding, places: Places, _: dict[str, int]
) -> list[tuple[list[list[int]], list[list[float]]]]:
    """The most probable tokens at each place and their probabilities, each (n, BEST)."""
    found = []
    for logits, place in zip(model(**inputs).logits, places, strict=True):
        best = logits[torch.from_numpy(place).to(logits.device)].float().softmax(-1).topk(min(BEST, logits.shape[-1]))
        found.append((best.indices.tolist(), best.values.tolist()))
    return found


def answer_masked(outputs: list[tuple], document: list[int], rows: list[Row], settings: Settings) -> list[Answer]:
    """What each mask of a text could stand for, the most probable first; nothing for one that was cut off."""
    tokenizer, answers = settings.tokenizer, []
    for row, (tokens, scores) in zip(rows, outputs, strict=True):
        masks = []
        for index, match in enumerate(re.finditer(re.escape(tokenizer.mask_token), row["text"])):
            told = zip(tokens[index], scores[index], strict=True) if index < len(tokens) else ()
            best = [{"text": tokenizer.decode([token]), "score": score} for token, score in told]
            masks.append({"start": match.start(), "end": match.end(), "predictions": best})
        answers.append({"masks": masks})
    return answers


ASKED = {
    "sequence-classification": Asked(read_texts, ask_logits, answer_texts),
    "token-classification": Asked(read_words, ask_tags, answer_tags),
    "seq2seq-lm": Asked(read_sources, ask_texts, answer_sources, generation={}),
    "causal-lm": Asked(
        read_prompts, ask_continuations, answer_prompts, side="left", generation={"max_new_tokens": 64}
    ),
    "masked-lm": Asked(read_masked, ask_fills, answer_masked),
}
