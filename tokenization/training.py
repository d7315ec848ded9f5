"""Train a tokenizer on texts.

Every trained tokenizer has the same five special tokens with the same ids. `[CLS]` begins a sequence and `[SEP]` ends
it, for the encoder and for the decoder, so they are also `bos_token` and `eos_token`. The same texts give the same
tokenizer.json, byte for byte.

In byte-bpe, wordpiece and unigram a token includes the space before it, and a space is added before each text. So a
word is the same token at the start of a text and inside it. A mask or a sentinel replaces such a token and includes
the space before it, too: "a [MASK] c" has the tokens of "a b c" with one of them masked. Other added tokens do not
change the text around them. Decoding restores every text of known characters, but with a space before each mask and
sentinel.
"""

from collections.abc import Iterable, Iterator, Sequence

import datasets
from transformers import PreTrainedTokenizerFast

from ..data.errors import InputError, check_choice
from .kinds import (
    NORMALIZATIONS,
    TOKENIZER_TYPES,
    added_special_tokens,
    post_processor,
    train_bert_wordpiece,
    train_char,
    train_wordpiece,
    without_prefix_space,
)
from .settings import set_token_types


class Texts:
    """Every text of some columns, in order and with repeats: not held in memory, and can be read several times.

    The words of a sentence that is already split come one by one: it has no spaces between them. So do the messages
    of a conversation, each with its role in a line before it.

    Args:
        rows: a split as `load_data` gives it.
        columns: the columns that hold texts, or lists of words or of messages; those that the rows lack are ignored.
    """

    def __init__(self, rows: datasets.Dataset, columns: Sequence[str]):
        self.rows = rows.select_columns([name for name in columns if name in rows.column_names])

    def __iter__(self) -> Iterator[str]:
        # datasets cannot iterate over a selection of rows without columns.
        for batch in self.rows.iter(1000) if self.rows.column_names else ():
            for values in batch.values():
                for value in values:
                    if isinstance(value, str):
                        yield value
                    else:
                        yield from (each if isinstance(each, str) else "\n".join(each.values()) for each in value)


def train_tokenizer(
    texts: Iterable[str],
    tokenizer_type: str,
    vocab_size: int,
    normalization: str | None = None,
    *,
    adds_special_tokens: bool = True,
    exact: bool = True,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    Args:
        texts: the training texts, which are read several times; single words if the task reads words.
        tokenizer_type: one of `TOKENIZER_TYPES`.
        vocab_size: the most entries the vocabulary may have, special tokens included.
        normalization: one of `NORMALIZATIONS`, applied to every text first. NFD decomposes Hangul syllables into
            letters; decoded text is then NFD, too.
        adds_special_tokens: put `[CLS]` and `[SEP]` around each text. Use False for texts that are continued: an end
            token would come before the continuation. No space is added before a text then, so that a continuation can
            begin with one.
        exact: decoding must restore the text. If not, wordpiece is BERT's.

    Returns:
        The tokenizer. If it adds special tokens, it also encodes pairs and returns token_type_ids; call
        `set_token_types` for a model without segments.

    Raises:
        InputError: an unknown type or normalization, a single text, no text, or a `vocab_size` that cannot hold the
            special tokens and every single character (for byte-bpe: every byte).
    """
    train = TOKENIZER_TYPES[check_choice("tokenizer_type", tokenizer_type, TOKENIZER_TYPES)]
    if train is train_wordpiece and not exact:
        train = train_bert_wordpiece
    normalizer = None
    if normalization is not None:
        normalizer = NORMALIZATIONS[check_choice("normalization", normalization, NORMALIZATIONS)]()
    if isinstance(texts, str):
        raise InputError("texts: must be several texts, as a list, but is one; its characters would be the texts")
    if iter(texts) is texts:
        # An iterator can be read only once.
        texts = list(texts)
    if not any(texts):
        raise InputError(
            f"tokenizer_type: {tokenizer_type} cannot be trained, because the training texts have no characters"
        )
    tokenizer = train(texts, vocab_size, normalizer)
    tokenizer.add_special_tokens(added_special_tokens())
    tokenizer.post_processor = post_processor(closes=True, trims=train not in (train_char, train_bert_wordpiece))
    if not adds_special_tokens:
        tokenizer = without_prefix_space(tokenizer)
    trained = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        clean_up_tokenization_spaces=False,
    )
    set_token_types(trained, adds_special_tokens)
    return trained
