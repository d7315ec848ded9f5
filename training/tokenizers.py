"""Train a tokenizer on the training split, or load one.

Every trained tokenizer has the same five special tokens with the same ids. `[CLS]` begins a sequence and `[SEP]` ends
it, for the encoder and for the decoder, so they are also `bos_token` and `eos_token`. The same texts give the same
tokenizer.json, byte for byte.

In byte-bpe, wordpiece and unigram a token includes the space before it, and a space is added before each text. So a
word is the same token at the start of a text and inside it. A mask or a sentinel replaces such a token and includes
the space before it, too: "a [MASK] c" has the tokens of "a b c" with one of them masked. Other added tokens do not
change the text around them. Decoding restores every text of known characters, but with a space before each mask and
sentinel.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import datasets
import jinja2
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from ..conversion.origin import find_transformer
from ..data.errors import InputError, check_choice, error_line, loading_error_line
from ..data.streams import RowStream
from ..tasks.base import Task
from ..tasks.corruption import add_sentinels
from ..tasks.encoding import appends_special_token
from ..tokenization.kinds import (
    NORMALIZATIONS,
    TOKENIZER_TYPES,
    added_special_tokens,
    is_trained_here,
    post_processor,
    train_bert_wordpiece,
    train_char,
    train_wordpiece,
    without_prefix_space,
)
from ..tokenization.words import SENTENCES, WordSplitting, find_splitting, set_splitting
from .arguments import DataArguments, ModelArguments

logger = logging.getLogger(__name__)


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
        for batch in self.rows.iter(1000):
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


def make_tokenizer(
    model_args: ModelArguments, data_args: DataArguments, task: Task, rows: datasets.Dataset | RowStream | None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a run: the one that was named, the model's, or one trained on the rows.

    Args:
        model_args: name a saved tokenizer, or say how one is trained.
        data_args: of the run.
        task: of the run.
        rows: the training split as `load_data` gives it; not needed for a saved tokenizer.

    Raises:
        InputError: see `load_tokenizer`, `set_languages`, `train_tokenizer`, `set_chat_template` and `add_sentinels`.
    """
    if model_args.saved_tokenizer:
        tokenizer = load_tokenizer(model_args.saved_tokenizer)
        set_languages(tokenizer, {"source_lang": model_args.source_lang, "target_lang": model_args.target_lang})
    else:
        tokenizer = train_tokenizer(
            Texts(rows, task.text_columns),
            model_args.tokenizer_type or "byte-bpe",
            model_args.vocab_size,
            model_args.tokenizer_normalization,
            adds_special_tokens=task.adds_special_tokens,
            exact=task.needs_exact_decoding,
        )
    if not task.adds_special_tokens and appends_special_token(tokenizer):
        tokenizer = without_special_tokens(tokenizer)
    if data_args.chat_template is not None:
        set_chat_template(tokenizer, data_args.chat_template)
    if task.has_sentinels:
        add_sentinels(tokenizer, data_args.max_length, data_args.noise(), normalized=is_trained_here(tokenizer))
    if rows is not None:
        set_splitting(tokenizer, find_word_splitting(rows) if task.reads_words else None)
    return tokenizer


def set_languages(tokenizer: PreTrainedTokenizerBase, languages: dict[str, str | None]) -> None:
    """Set the languages of sources and targets, which NLLB, M2M100 and mBART mark with a token.

    Args:
        tokenizer: changed here; its saved files have the languages.
        languages: by the name of the option; None: as the tokenizer has it.

    Raises:
        InputError: the tokenizer has no languages, or not this one.
    """
    for option, attribute in {"source_lang": "src_lang", "target_lang": "tgt_lang"}.items():
        language = languages[option]
        if language is None:
            continue
        if not hasattr(tokenizer, attribute):
            raise InputError(f"{option}: {type(tokenizer).__name__} has no languages")
        # Of M2M100 the token of "en" is "__en__".
        known = getattr(tokenizer, "lang_code_to_token", set(tokenizer.all_special_tokens) - named_tokens(tokenizer))
        if language not in known:
            nearest = ", ".join(get_close_matches(language, sorted(known), n=5, cutoff=0.0))
            raise InputError(f"{option}: the tokenizer has no language {language!r}; nearest: {nearest}")
        setattr(tokenizer, attribute, language)
        tokenizer.init_kwargs[attribute] = language


def named_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The special tokens of a tokenizer that have a role, such as beginning, end and padding."""
    return {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}


def set_chat_template(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Set the chat template of a tokenizer. Raises InputError for a file that cannot be read or is no template."""
    try:
        tokenizer.chat_template = Path(path).expanduser().read_text(encoding="utf-8")
        tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat_template: {path} cannot be read ({error_line(error)})") from error
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"chat_template: {path}: line {error.lineno}: {error.message}") from error
    except Exception:  # a template may refuse these messages with an error of any class
        return


def find_word_splitting(rows: datasets.Dataset | RowStream) -> WordSplitting | None:
    """The rule by which the words of the training rows were split; it is logged. None if there is no word."""
    rows = rows.head if isinstance(rows, RowStream) else rows
    splitting = find_splitting(rows[:SENTENCES]["tokens"])
    if splitting is not None:
        logger.info("Words: %s; prediction splits texts in the same way", splitting)
    return splitting


def set_token_types(tokenizer: PreTrainedTokenizerBase, reads: bool) -> None:
    """Let the tokenizer, and its saved files, return token_type_ids exactly if the model reads them.

    A model with segments needs them: without them it reads both texts of a pair as the first segment.
    """
    first, *others = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    names = [first, *(["token_type_ids"] if reads else []), *others]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names


def without_special_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with the same vocabulary that adds no special tokens, also after saving and loading.

    If it was trained here, it does not add a space before a text either: a decoded continuation keeps its first space.
    A class such as BertTokenizer adds special tokens whenever it is loaded, so the result is a plain
    PreTrainedTokenizerFast. A slow tokenizer is returned unchanged.
    """
    if not tokenizer.is_fast or not tokenizer.num_special_tokens_to_add():
        return tokenizer
    backend = tokenizer.backend_tokenizer
    if is_trained_here(tokenizer):
        backend = without_prefix_space(backend)
    else:
        backend.post_processor = post_processor(closes=False, trims=False)
    copied = (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "model_input_names",
        "clean_up_tokenization_spaces",
    )
    bare = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        extra_special_tokens=tokenizer.extra_special_tokens,
        **{name: getattr(tokenizer, name) for name in copied},
    )
    bare.chat_template = tokenizer.chat_template
    bare.name_or_path = tokenizer.name_or_path
    return bare


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a directory or the Hub; missing special tokens are replaced by others that it has.

    A directory may hold only a BERT `vocab.txt`, or a GPT-2 `vocab.json` and `merges.txt`. A `vocab.txt` is treated as
    lower-cased if none of its entries has a capital letter. The tokenizer of a sentence-transformers model is in the
    folder of its transformer.

    Raises:
        InputError: it cannot be loaded, or it has no token that could begin, end or fill a sequence.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if not path.exists() and (path.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise InputError(f"tokenizer_name_or_path: no such directory: {name}")
    try:
        # With None, transformers asks on standard input whether to run code of the repository. No tokenizer needs it.
        source = str(path) if path.exists() else name
        tokenizer = _load_bare(path) or AutoTokenizer.from_pretrained(
            source, subfolder=find_transformer(source), trust_remote_code=False
        )
    except Exception as error:  # transformers and tokenizers raise whatever they meet
        raise InputError(f"tokenizer_name_or_path: {name!r} cannot be loaded ({loading_error_line(error)})") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        # transformers makes an empty one if there are no files.
        raise InputError(f"tokenizer_name_or_path: {name!r} has no tokenizer, or one with special tokens only")
    # The code that auto_map names is not saved with the tokenizer.
    tokenizer.init_kwargs.pop("auto_map", None)
    _fill_special_tokens(tokenizer, name)
    return tokenizer


def _load_bare(path: Path) -> PreTrainedTokenizerBase | None:
    """Load a directory that holds vocabulary files only, for which AutoTokenizer knows no class."""
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
    """Replace missing special tokens by SUBSTITUTES. Raises InputError for a token without a substitute."""
    for missing, substitutes in SUBSTITUTES.items():
        if getattr(tokenizer, missing) is not None:
            continue
        token = next((found for other in substitutes if (found := getattr(tokenizer, other)) is not None), None)
        if token is None:
            raise InputError(
                f"tokenizer_name_or_path: {name!r} has no {missing}, and none of {', '.join(substitutes)} instead"
            )
        setattr(tokenizer, missing, token)


# The substitutes for a special token that a tokenizer lacks, in this order.
SUBSTITUTES: dict[str, tuple[str, ...]] = {
    "bos_token": ("cls_token", "eos_token"),
    "eos_token": ("sep_token", "bos_token"),
    "cls_token": ("bos_token",),
    "sep_token": ("eos_token",),
    "pad_token": ("eos_token",),
}
