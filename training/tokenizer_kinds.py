"""The kinds of tokenizers that can be trained: what is a token, and what becomes of spaces. See tokenization.py."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable

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

from ..data.errors import InputError
from ..tasks.encoding import SPECIAL_TOKENS

# A space in the tokens of wordpiece and unigram. SentencePiece's "▁" would not do: it is no white space by Unicode, by
# which offsets are trimmed. This one is, and can be seen; only texts in Ogham have it, and get spaces back.
SPACE = "\u1680"
# Tokens that are looked for only after the normalizer has taken the space before them.
STANDS_FOR_TOKENS = r"\[MASK\]|<extra_id_\d+>"
UNIGRAM_STEP = 1e-4  # fixed in the trainer, see _reproducible


def train_char(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
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


def train_byte_bpe(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
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
        vocab_size=vocab_size, special_tokens=special_tokens(), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_wordpiece(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
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
        special_tokens=special_tokens(),
        continuing_subword_prefix="",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model = models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]", continuing_subword_prefix="")
    return tokenizer


def train_bert_wordpiece(
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


def train_unigram(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """SentencePiece's unigram model; characters that training never had are unknown."""
    tokenizer = Tokenizer(models.Unigram())
    # A special token that a text spells out must not be a word: it would be found in the vocabulary.
    special = "|".join(re.escape(token[1:]) for token in SPECIAL_TOKENS)
    _count_spaces(tokenizer, normalizer, rf"{SPACE}?(?:[^{SPACE}\[]|\[(?!{special}))+|{SPACE}?\[|{SPACE}")
    characters = set().union(*(word for text in texts for word in _words(tokenizer, text)))
    _check_size("unigram", vocab_size, len(characters), "characters")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special_tokens(), unk_token="[UNK]", show_progress=False
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


def special_tokens() -> list[AddedToken]:
    """The five, as they are added to a tokenizer; the normalizer has its turn before the mask is looked for."""
    return [AddedToken(token, special=True, normalized=token == "[MASK]") for token in SPECIAL_TOKENS]


def post_processor(closes: bool, trims: bool) -> processors.PostProcessor:
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


def without_space_first(tokenizer: Tokenizer) -> Tokenizer:
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
    bare.post_processor = post_processor(closes=False, trims=trims)
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
    "char": train_char,
    "byte-bpe": train_byte_bpe,
    "wordpiece": train_wordpiece,
    "unigram": train_unigram,
}
NORMALIZATIONS: dict[str, Callable[[], normalizers.Normalizer]] = {
    "nfc": normalizers.NFC,
    "nfd": normalizers.NFD,
    "nfkc": normalizers.NFKC,
}
