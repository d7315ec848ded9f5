"""The texts of a causal language model as rows: one stream cut into blocks, or documents that are kept apart."""

import itertools
import logging

import datasets
import numpy as np

from .corruption import IGNORE
from .files import InputError
from .sampling import fill

logger = logging.getLogger(__name__)


def cut_stream(texts: datasets.Dataset, max_length: int, where: str) -> datasets.Dataset:
    """All texts in one stream, cut into blocks of max_length tokens."""
    stream = np.concatenate([np.asarray(ids) for batch in texts.iter(1000) for ids in batch["input_ids"]])
    blocks = [stream[start : start + max_length] for start in range(0, len(stream), max_length)]
    if len(stream) < 2:
        raise InputError(f"{where}: the texts have {len(stream)} tokens, too few to predict one from another")
    return datasets.Dataset.from_dict({"input_ids": blocks, "labels": blocks})


def pack_documents(texts: datasets.Dataset, max_length: int, where: str) -> datasets.Dataset:
    """Rows of one or more documents of at most max_length tokens together, in their order.

    Positions begin anew with each document, by which the model knows that it begins. Its first token is no label:
    nothing is before it to tell it from. A longer document is cut into pieces, which do not see each other either.
    """
    documents, cut = [], 0
    for ids in (ids for batch in texts.iter(1000) for ids in batch["input_ids"]):
        cut += len(ids) > max_length
        documents += [ids[start : start + max_length] for start in range(0, len(ids), max_length)]
    if max(map(len, documents)) < 2:
        raise InputError(f"{where}: no text has a token to predict another from")
    if cut:
        message = "%s: %d of %d documents are longer than max_length=%d and are cut into %d pieces"
        logger.warning(message, where, cut, len(texts), max_length, len(documents) - len(texts) + cut)
    starts = fill(np.cumsum([len(ids) for ids in documents]), max_length)
    packs = [documents[start:end] for start, end in itertools.pairwise([*starts, len(documents)])]
    columns = {
        "input_ids": lambda ids: ids,
        "position_ids": lambda ids: range(len(ids)),
        "labels": lambda ids: [IGNORE, *ids[1:]],
    }
    return datasets.Dataset.from_dict(
        {name: [list(itertools.chain(*map(column, pack))) for pack in packs] for name, column in columns.items()}
    )
