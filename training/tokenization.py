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

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import datasets
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from .arguments import DataArguments, ModelArguments
from .corruption import add_sentinels
from .files import InputError, one_of, why_not_loaded
from .streams import RowStream
from .words import SENTENCES, WordSplitting, find_splitting, record_splitting

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# A space in the tokens of wordpiece and unigram. SentencePiece's "▁" would not do: it is no white space by Unicode, by
# which offsets are trimmed. This one is, and can be seen; only texts in Ogham have it, and get spaces back.
SPACE = "\u1680"
# Tokens that are looked for only after the normalizer has taken the space before them.
STANDS_FOR_TOKENS = r"\[MASK\]|<extra_id_\d+>"
UNIGRAM_STEP = 1e-4  # fixed in the trainer, see _reproducible


class Texts:
    """Every text that a tokenizer should know, in order and with repeats; not held in memory, and read several times.

    The words of a pre-split sentence come one by one: a space between them would be invented.

    Args:
        rows: a split as `load_data` gives it.
        task: one of `TASK_TEXTS`.
    """

    def __init__(self, rows: datasets.Dataset, task: str):
        names = TASK_TEXTS[one_of("task", task, TASK_TEXTS)]
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
    train = TOKENIZER_TYPES[one_of("tokenizer_type", tokenizer_type, TOKENIZER_TYPES)]
    if train is _train_wordpiece and not exact:
        train = _train_bert_wordpiece
    normalizer = None
    if normalization is not None:
        normalizer = NORMALIZATIONS[one_of("normalization", normalization, NORMALIZATIONS)]()
    if iter(texts) is texts:
        # It could be gone through once only.
        texts = list(texts)
    if not any(texts):
        raise InputError(f"tokenizer_type: {tokenizer_type} cannot be trained, the training texts hold no character")
    tokenizer = train(texts, vocab_size, normalizer)
    tokenizer.add_special_tokens(_special_tokens())
    tokenizer.post_processor = _post_processor(closes=True, trims=train not in (_train_char, _train_bert_wordpiece))
    if not closes:
        tokenizer = _without_space_first(tokenizer)
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
        record_splitting(tokenizer, splitting_of(rows, data_args.task))
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
        backend = _without_space_first(backend)
    else:
        backend.post_processor = _post_processor(closes=False, trims=False)
    kept = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces")
    bare = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        extra_special_tokens=tokenizer.extra_special_tokens,
        **{name: getattr(tokenizer, name) for name in kept},
    )
    bare.chat_template = tokenizer.chat_template
    return bare


def is_trained_here(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether `train_tokenizer` made it, in this run or an earlier one: its class and special tokens tell."""
    first = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), len(SPECIAL_TOKENS))))
    ends = (tokenizer.bos_token, tokenizer.eos_token)
    return type(tokenizer) is PreTrainedTokenizerFast and first == SPECIAL_TOKENS and ends == ("[CLS]", "[SEP]")


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
        raise InputError(f"tokenizer_name_or_path: {name!r} cannot be loaded ({why_not_loaded(error)})") from error
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


# --- The four kinds ---


def _train_char(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """One Unicode character a token, spaces and line ends too, the most frequent first.

    Byte pairs of which none is ever merged: the characters of a word know that they belong together.
    """
    counts = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text) if normalizer else text)
    _check_size("char", vocab_size, len(counts), "characters")
    characters = sorted(counts, key=lambda character: (-counts[character], character))
    vocab = {token: index for index, token in enumerate(SPECIAL_TOKENS + characters)}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="[UNK]"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\s|[^\w\s]+"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _train_byte_bpe(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """Byte pairs, as GPT-2: no text is unknown, and decoding gives back every byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_size("byte-bpe", vocab_size, len(alphabet), "bytes")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(_normalizers(normalizer))
    # Bytes are letters after the first step: a space is Ġ.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False), *_space_first("Ġ")]
    )
    tokenizer.decoder = decoders.Sequence([_space_before("Ġ"), decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=_special_tokens(), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_wordpiece(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """The longest piece of a word that is known, then the longest of the rest; every space counts.

    A word is a run of letters and digits, a Chinese character, or another character, with the space before it. Of a
    longer run every 99 characters are a word, as WordPiece takes words of more than 100 for unknown.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", continuing_subword_prefix=""))
    _count_spaces(tokenizer, normalizer, rf"{SPACE}?[\w&&[^\p{{Han}}]]{{1,99}}|{SPACE}?[^{SPACE}]|{SPACE}")
    characters = set().union(*(word for text in texts for word in _words(tokenizer, text)))
    _check_size("wordpiece", vocab_size, len(characters), "characters")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=_special_tokens(),
        continuing_subword_prefix="",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model = models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]", continuing_subword_prefix="")
    return tokenizer


def _train_bert_wordpiece(
    texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None
) -> Tokenizer:
    """BERT's pieces of words, case and accents kept. White space is not: decoding joins words by one space."""
    bert = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizer, bert]) if normalizer else bert
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word in _words(tokenizer, text)}
    continuations = sorted({f"##{character}" for word in words for character in word[1:]})
    characters = {character for word in words for character in word}
    _check_size("wordpiece", vocab_size, len(characters) + len(continuations), "characters, alone and inside words")
    # The trainer numbers continuations in the order of a randomly seeded hash map, and ties between pairs are broken
    # by number: given as special tokens they have fixed ones. Only the vocabulary is kept; there they are ordinary.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS + continuations, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    trained.decoder = decoders.WordPiece(cleanup=False)
    return trained


def _train_unigram(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """SentencePiece's unigram model; characters that training never had are unknown."""
    tokenizer = Tokenizer(models.Unigram())
    # A special token that a text spells out must not be a word: it would be found in the vocabulary.
    special = "|".join(re.escape(token[1:]) for token in SPECIAL_TOKENS)
    _count_spaces(tokenizer, normalizer, rf"{SPACE}?(?:[^{SPACE}\[]|\[(?!{special}))+|{SPACE}?\[|{SPACE}")
    characters = set().union(*(word for text in texts for word in _words(tokenizer, text)))
    _check_size("unigram", vocab_size, len(characters), "characters")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=_special_tokens(), unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    pieces = _reproducible([piece for piece in pieces if piece[0] not in SPECIAL_TOKENS])
    # The trainer overshoots where the characters alone fill the vocabulary.
    longer = [piece for piece in pieces if len(piece[0]) > 1][vocab_size - len(SPECIAL_TOKENS) - len(characters) :]
    vocab = [(token, 0.0) for token in SPECIAL_TOKENS] + [piece for piece in pieces if piece not in longer]
    tokenizer.model = models.Unigram(vocab, unk_id=SPECIAL_TOKENS.index("[UNK]"))
    return tokenizer


def _reproducible(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Take out what differs from run to run of the unigram trainer, which goes through randomly seeded hash maps.

    Characters that it had pruned away come back with the lowest score, that plus one step, plus two, … in any order:
    here in the order of their code points. Sums differ in the eleventh digit: scores are rounded to five.
    """
    scores = dict(pieces)
    lowest = min(scores.values())
    steps = {piece: (score - lowest) / UNIGRAM_STEP for piece, score in pieces if len(piece) == 1}
    whole = sorted((round(step), piece) for piece, step in steps.items() if abs(step - round(step)) < 1e-3)
    gap = next((i for i, (step, _) in enumerate(whole) if step > (whole[i - 1][0] + 1 if i else 0)), len(whole))
    restored = whole[:gap]
    for (step, _), piece in zip(restored, sorted(piece for _, piece in restored), strict=True):
        scores[piece] = lowest + step * UNIGRAM_STEP
    rounded = [(piece, round(score, 5)) for piece, score in scores.items()]
    return sorted(rounded, key=lambda piece: (-piece[1], piece[0]))


def _special_tokens() -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=token == "[MASK]") for token in SPECIAL_TOKENS]


def _post_processor(closes: bool, trims: bool) -> processors.PostProcessor:
    """What puts `[CLS]` and `[SEP]` around a text or a pair, if it is to be closed, and nothing else.

    Args:
        closes: whether it is; then its first token begins with a space that is not in the text.
        trims: let the offsets of " York" be those of "York": so `text[start:end]` of a pipeline is a word.
    """
    single, pair = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1") if closes else ("$A", "$A $B:1")
    special = [(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]") if closes]
    template = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    trim = processors.ByteLevel(add_prefix_space=closes, trim_offsets=True)
    return processors.Sequence([trim, template]) if trims else template


def _without_space_first(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer trained here, with which texts begin and end as they are: no space and no token is put there.

    One of an earlier version puts its space elsewhere, and keeps it.
    """
    parts = json.loads(tokenizer.to_str())
    trims = "processors" in parts["post_processor"]
    if trims:
        steps = parts["pre_tokenizer"]["pretokenizers"]
        parts["pre_tokenizer"]["pretokenizers"] = [each for each in steps if each.get("prepend_scheme") != "first"]
        steps = parts["decoder"]["decoders"]
        parts["decoder"]["decoders"] = [each for each in steps if each["type"] != "Strip"]
    bare = Tokenizer.from_str(json.dumps(parts))
    bare.post_processor = _post_processor(closes=False, trims=trims)
    return bare


def _count_spaces(tokenizer: Tokenizer, normalizer: normalizers.Normalizer | None, words: str) -> None:
    """Let a tokenizer cut texts into words, which match a pattern, with every space as SPACE."""
    tokenizer.normalizer = normalizers.Sequence([*_normalizers(normalizer), normalizers.Replace(" ", SPACE)])
    split = pre_tokenizers.Split(Regex(words), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*_space_first(SPACE), split])
    space = decoders.Replace(SPACE, " ")
    tokenizer.decoder = decoders.Sequence([_space_before(SPACE), space, decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def _normalizers(normalizer: normalizers.Normalizer | None) -> list[normalizers.Normalizer]:
    """The user's normalizer, and one that takes the space before what stands for a token."""
    return [*([normalizer] if normalizer else []), normalizers.Replace(Regex(f" (?={STANDS_FOR_TOKENS})"), "")]


def _space_before(space: str) -> decoders.Decoder:
    """Gives back the space before what stands for a token."""
    return decoders.Replace(Regex(f"^(?=(?:{STANDS_FOR_TOKENS})$)"), space)


def _space_first(space: str) -> list[pre_tokenizers.PreTokenizer]:
    """Put a space before every text and every given word, but not after an added token: " a" and "a" stay apart.

    Metaspace alone knows where a text begins, and does not add its own character where one stands: so a blank is
    added, of which the text has none left, and then turned into what stands for a space.
    """
    return [
        pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False),
        pre_tokenizers.Metaspace(replacement=space, prepend_scheme="never", split=False),
    ]


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words that a tokenizer in training takes a text for."""
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]


def _check_size(tokenizer_type: str, vocab_size: int, alphabet: int, what: str) -> None:
    needed = len(SPECIAL_TOKENS) + alphabet
    if vocab_size < needed:
        raise InputError(
            f"vocab_size: {vocab_size} is too small for tokenizer_type {tokenizer_type}:"
            f" {len(SPECIAL_TOKENS)} special tokens and {alphabet} {what} need {needed}"
        )


TOKENIZER_TYPES: dict[str, Callable[[Iterable[str], int, normalizers.Normalizer | None], Tokenizer]] = {
    "char": _train_char,
    "byte-bpe": _train_byte_bpe,
    "wordpiece": _train_wordpiece,
    "unigram": _train_unigram,
}
NORMALIZATIONS: dict[str, Callable[[], normalizers.Normalizer]] = {
    "nfc": normalizers.NFC,
    "nfd": normalizers.NFD,
    "nfkc": normalizers.NFKC,
}
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
