"""Train a tokenizer on the training split, or load one.

Every trained tokenizer has the same five special tokens with the same ids. `[CLS]` begins a sequence and `[SEP]` ends
it, for the encoder as for the decoder, so they are `bos_token` and `eos_token` too. The same texts give the same
tokenizer.json, byte for byte.

In byte-bpe, wordpiece and unigram a space belongs to the token after it, and a space is put before each text: a word
is the same token at the start of a text as inside it. A mask or a sentinel stands for such a token, and so the space
before it belongs to it: "a [MASK] c" has the tokens of "a b c" with one of them masked. Other added tokens change
nothing in the text around them. Decoding gives back every text of known characters, but with a space before each mask
and sentinel.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from ..data.errors import InputError, check_choice, loading_error_line
from ..data.streams import RowStream
from ..tasks.corruption import add_sentinels
from ..tasks.encoding import is_trained_here
from ..tasks.words import SENTENCES, WordSplitting, find_splitting, set_splitting
from .arguments import DataArguments, ModelArguments
from .tokenizer_kinds import (
    NORMALIZATIONS,
    TOKENIZER_TYPES,
    added_special_tokens,
    post_processor,
    train_bert_wordpiece,
    train_char,
    train_wordpiece,
    without_prefix_space,
)

logger = logging.getLogger(__name__)


class Texts:
    """Every text that a tokenizer should know, in order and with repeats; not held in memory, and read several times.

    The words of a pre-split sentence come one by one: a space between them would be invented.

    Args:
        rows: a split as `load_data` gives it.
        task: one of `TASK_TEXTS`.
    """

    def __init__(self, rows: datasets.Dataset, task: str):
        names = TASK_TEXTS[check_choice("task", task, TASK_TEXTS)]
        self.rows = rows.select_columns([name for name in names if name in rows.column_names])

    def __iter__(self) -> Iterator[str]:
        for batch in self.rows.iter(1000):
            for values in batch.values():
                for value in values:
                    if isinstance(value, str):
                        yield value
                    else:
                        yield from value


def train_tokenizer(
    texts: Iterable[str],
    tokenizer_type: str,
    vocab_size: int,
    normalization: str | None = None,
    *,
    closes: bool = True,
    exact: bool = True,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    Args:
        texts: the training texts, which are gone through several times; words one by one if the task has words.
        tokenizer_type: one of `TOKENIZER_TYPES`.
        vocab_size: the most entries the vocabulary may have, special tokens included.
        normalization: one of `NORMALIZATIONS`, applied to every text before anything else. NFD takes Hangul syllables
            apart into letters; what the tokenizer decodes is then NFD too.
        closes: put `[CLS]` and `[SEP]` around each text. Not where texts are continued: the end would come before; and
            a space is not put before a text then, so that a continuation can begin with one.
        exact: decoding gives the text back. Where texts are only read, wordpiece can do without: it is BERT's then.

    Returns:
        The tokenizer. One that closes texts knows pairs, and gives token_type_ids, which a model without segments does
        not read; `set_token_types` changes that.

    Raises:
        InputError: an unknown type or normalization, no text, or a `vocab_size` that cannot hold the special tokens
            and every single character (for byte-bpe: every byte).
    """
    train = TOKENIZER_TYPES[check_choice("tokenizer_type", tokenizer_type, TOKENIZER_TYPES)]
    if train is train_wordpiece and not exact:
        train = train_bert_wordpiece
    normalizer = None
    if normalization is not None:
        normalizer = NORMALIZATIONS[check_choice("normalization", normalization, NORMALIZATIONS)]()
    if iter(texts) is texts:
        # It could be gone through once only.
        texts = list(texts)
    if not any(texts):
        raise InputError(f"tokenizer_type: {tokenizer_type} cannot be trained, the training texts hold no character")
    tokenizer = train(texts, vocab_size, normalizer)
    tokenizer.add_special_tokens(added_special_tokens())
    tokenizer.post_processor = post_processor(closes=True, trims=train not in (train_char, train_bert_wordpiece))
    if not closes:
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
    set_token_types(trained, closes)
    return trained


def make_tokenizer(
    model_args: ModelArguments,
    data_args: DataArguments,
    rows: datasets.Dataset | RowStream | None,
    has_sentinels: bool,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a run: the one that was named, the model's, or one trained on the rows.

    Args:
        model_args: name it, or say how it is trained.
        data_args: of the run.
        rows: the training split as `load_data` gives it; not needed where a tokenizer is saved.
        has_sentinels: whether it needs tokens that stand for spans.

    Raises:
        InputError: see `load_tokenizer`, `train_tokenizer` and `add_sentinels`.
    """
    if model_args.saved_tokenizer:
        tokenizer = load_tokenizer(model_args.saved_tokenizer)
    else:
        tokenizer = train_tokenizer(
            Texts(rows, data_args.task),
            model_args.tokenizer_type or "byte-bpe",
            model_args.vocab_size,
            model_args.tokenizer_normalization,
            closes=data_args.task != "causal-lm",
            exact=data_args.task not in ("sequence-classification", "token-classification"),
        )
    if data_args.task == "causal-lm":
        tokenizer = open_ended(tokenizer)
    if has_sentinels:
        add_sentinels(tokenizer, data_args.max_length, data_args.noise(), normalized=is_trained_here(tokenizer))
    if rows is not None:
        set_splitting(tokenizer, splitting_of(rows, data_args.task))
    return tokenizer


def splitting_of(rows: datasets.Dataset | RowStream, task: str) -> WordSplitting | None:
    """How the words of the training rows are divided, which is said in a line; None for tasks without words."""
    if "tokens" not in TASK_TEXTS[task]:
        return None
    rows = rows.head if isinstance(rows, RowStream) else rows
    splitting = find_splitting(rows[:SENTENCES]["tokens"])
    if splitting is not None:
        logger.info("Words: %s; texts are divided so in prediction", splitting)
    return splitting


def set_token_types(tokenizer: PreTrainedTokenizerBase, reads: bool) -> None:
    """Let the tokenizer give token_type_ids if the model reads them, and only then; it is saved so, too.

    They tell the texts of a pair apart: a model with segments that is asked without them takes both for one.
    """
    first, *others = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    names = [first, *(["token_type_ids"] if reads else []), *others]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names


def open_ended(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same vocabulary for texts that are continued: no special tokens are added, also after saving and loading.

    In a tokenizer trained here, texts then begin as they are, too: what is decoded of a continuation keeps its first
    space. A class such as BertTokenizer adds special tokens whenever it is loaded: the new one is of no such class. A
    slow tokenizer stays as it is.
    """
    if not tokenizer.is_fast or not tokenizer.num_special_tokens_to_add():
        return tokenizer
    backend = tokenizer.backend_tokenizer
    if is_trained_here(tokenizer):
        backend = without_prefix_space(backend)
    else:
        backend.post_processor = post_processor(closes=False, trims=False)
    kept = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces")
    bare = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        extra_special_tokens=tokenizer.extra_special_tokens,
        **{name: getattr(tokenizer, name) for name in kept},
    )
    bare.chat_template = tokenizer.chat_template
    return bare


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a directory or the Hub; missing special tokens are taken from those it has.

    A directory may hold only a BERT `vocab.txt`, or a GPT-2 `vocab.json` and `merges.txt`. A `vocab.txt` says nothing
    of case: it is taken for lower-cased if none of its entries has a capital letter.

    Raises:
        InputError: it cannot be loaded, or it has no token that could begin, end or fill a sequence.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if not path.exists() and (path.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise InputError(f"tokenizer_name_or_path: no such directory: {name}")
    try:
        # A model repository's own code is not needed for its tokenizer; None would ask for it on standard input.
        tokenizer = _load_bare(path) or AutoTokenizer.from_pretrained(
            str(path) if path.exists() else name, trust_remote_code=False
        )
    except Exception as error:  # the libraries below raise whatever they meet
        raise InputError(f"tokenizer_name_or_path: {name!r} cannot be loaded ({loading_error_line(error)})") from error
    # Saved again, it would name code that does not come along.
    tokenizer.init_kwargs.pop("auto_map", None)
    _fill_special_tokens(tokenizer, name)
    return tokenizer


def _load_bare(path: Path) -> PreTrainedTokenizerBase | None:
    """Load a directory of vocabulary files alone, which AutoTokenizer cannot name."""
    if not path.is_dir() or any((path / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    if (path / "vocab.txt").exists():
        entries = (path / "vocab.txt").read_text(encoding="utf-8").splitlines()
        cased = any(entry != entry.lower() for entry in entries if not entry.startswith("["))
        return BertTokenizer.from_pretrained(str(path), do_lower_case=not cased, trust_remote_code=False)
    if (path / "vocab.json").exists() and (path / "merges.txt").exists():
        return GPT2Tokenizer.from_pretrained(str(path), trust_remote_code=False)
    return None


def _fill_special_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    for missing, substitutes in SUBSTITUTES.items():
        if getattr(tokenizer, missing) is not None:
            continue
        token = next((found for other in substitutes if (found := getattr(tokenizer, other)) is not None), None)
        if token is None:
            raise InputError(
                f"tokenizer_name_or_path: {name!r} has no {missing}, and none of {', '.join(substitutes)} instead"
            )
        setattr(tokenizer, missing, token)


TASK_TEXTS: dict[str, tuple[str, ...]] = {
    "sequence-classification": ("text", "text_pair"),
    "token-classification": ("tokens",),
    "seq2seq-lm": ("source", "target"),
    "causal-lm": ("text",),
    "masked-lm": ("text",),
    "denoising": ("text",),
}
# In this order: what stands in for a special token that a tokenizer has not.
SUBSTITUTES: dict[str, tuple[str, ...]] = {
    "bos_token": ("cls_token", "eos_token"),
    "eos_token": ("sep_token", "bos_token"),
    "cls_token": ("bos_token",),
    "sep_token": ("eos_token",),
    "pad_token": ("eos_token",),
}
