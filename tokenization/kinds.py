"""The types of tokenizers that can be trained, and how each handles spaces. See training.py."""

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
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..data.errors import InputError

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# A space in the tokens of wordpiece and unigram. It must be Unicode whitespace, by which offsets are trimmed, so not
# SentencePiece's "▁"; and it is visible. Only texts in Ogham contain it; there it decodes to a space.
SPACE = "\u1680"
# Special tokens that are matched after the normalizer, which removes the space before them.
TOKENS_AFTER_SPACE = r"\[MASK\]|<extra_id_\d+>"
UNIGRAM_STEP = 1e-4  # fixed in the trainer, see _reproducible


def train_char(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """Train a tokenizer whose tokens are Unicode characters, including spaces and line ends, most frequent first.

    The model is BPE without merges, so that `word_ids` tells which characters form a word.
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
    """Train byte-level BPE, as in GPT-2: no text is unknown, and decoding restores every byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_size("byte-bpe", vocab_size, len(alphabet), "bytes")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(_normalizers(normalizer))
    # The first step maps bytes to letters; a space becomes Ġ.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False), *_prefix_space("Ġ")]
    )
    tokenizer.decoder = decoders.Sequence([_restore_space("Ġ"), decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=added_special_tokens(), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_wordpiece(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """Train WordPiece that keeps every space: longest known piece first, then the longest of the rest.

    A word is a run of letters and digits, a Chinese character or any other character, with the space before it. Longer
    runs are split into words of 99 characters, as WordPiece treats words of more than 100 as unknown.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", continuing_subword_prefix=""))
    _split_words_with_spaces(tokenizer, normalizer, rf"{SPACE}?[\w&&[^\p{{Han}}]]{{1,99}}|{SPACE}?[^{SPACE}]|{SPACE}")
    characters = set().union(*(word for text in texts for word in _words(tokenizer, text)))
    _check_size("wordpiece", vocab_size, len(characters), "characters")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=added_special_tokens(),
        continuing_subword_prefix="",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model = models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]", continuing_subword_prefix="")
    return tokenizer


def train_bert_wordpiece(
    texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None
) -> Tokenizer:
    """Train BERT's WordPiece with case and accents. Whitespace is lost: decoding joins words by one space."""
    bert = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizer, bert]) if normalizer else bert
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word in _words(tokenizer, text)}
    continuations = sorted({f"##{character}" for word in words for character in word[1:]})
    characters = {character for word in words for character in word}
    _check_size("wordpiece", vocab_size, len(characters) + len(continuations), "characters, alone and inside words")
    # The trainer numbers continuations in the order of a randomly seeded hash map, and breaks ties between pairs by
    # number. As special tokens they have fixed numbers. Only the vocabulary is used below, where they are ordinary.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS + continuations, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    trained.decoder = decoders.WordPiece(cleanup=False)
    return trained


def train_unigram(texts: Iterable[str], vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """Train SentencePiece's unigram model; characters that are not in the training texts are unknown."""
    tokenizer = Tokenizer(models.Unigram())
    # A special token that is spelled out in a text must not become a word: it is in the vocabulary already.
    special = "|".join(re.escape(token[1:]) for token in SPECIAL_TOKENS)
    _split_words_with_spaces(tokenizer, normalizer, rf"{SPACE}?(?:[^{SPACE}\[]|\[(?!{special}))+|{SPACE}?\[|{SPACE}")
    characters = set().union(*(word for text in texts for word in _words(tokenizer, text)))
    _check_size("unigram", vocab_size, len(characters), "characters")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=added_special_tokens(), unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    pieces = _reproducible([piece for piece in pieces if piece[0] not in SPECIAL_TOKENS])
    # The trainer exceeds vocab_size if the characters alone fill the vocabulary.
    longer = [piece for piece in pieces if len(piece[0]) > 1][vocab_size - len(SPECIAL_TOKENS) - len(characters) :]
    vocab = [(token, 0.0) for token in SPECIAL_TOKENS] + [piece for piece in pieces if piece not in longer]
    tokenizer.model = models.Unigram(vocab, unk_id=SPECIAL_TOKENS.index("[UNK]"))
    return tokenizer


def _reproducible(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Remove the differences between runs of the unigram trainer, which iterates over randomly seeded hash maps.

    The trainer adds pruned characters again, with the lowest score, that plus one step, plus two steps, … in random
    order: here in the order of their code points. Sums differ in the eleventh digit: scores are rounded to five.
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


def added_special_tokens() -> list[AddedToken]:
    """The five special tokens as AddedToken; the mask is matched after the normalizer."""
    return [AddedToken(token, special=True, normalized=token == "[MASK]") for token in SPECIAL_TOKENS]


def post_processor(closes: bool, trims: bool) -> processors.PostProcessor:
    """The post-processor that adds `[CLS]` and `[SEP]` around a text or a pair, if texts are to be closed.

    Args:
        closes: whether to add them; then the first token begins with a space that is not in the text.
        trims: give " York" the offsets of "York", so that `text[start:end]` of a pipeline is a word.
    """
    single, pair = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1") if closes else ("$A", "$A $B:1")
    special = [(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]") if closes]
    template = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    trim = processors.ByteLevel(add_prefix_space=closes, trim_offsets=True)
    return processors.Sequence([trim, template]) if trims else template


def without_prefix_space(tokenizer: Tokenizer) -> Tokenizer:
    """A copy of a tokenizer trained here that adds neither a space before a text nor special tokens around it.

    A tokenizer of an earlier version adds its space in another place, and keeps it.
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


def _split_words_with_spaces(tokenizer: Tokenizer, normalizer: normalizers.Normalizer | None, words: str) -> None:
    """Make a tokenizer split texts into words that match a pattern, with SPACE for every space."""
    tokenizer.normalizer = normalizers.Sequence([*_normalizers(normalizer), normalizers.Replace(" ", SPACE)])
    split = pre_tokenizers.Split(Regex(words), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*_prefix_space(SPACE), split])
    space = decoders.Replace(SPACE, " ")
    tokenizer.decoder = decoders.Sequence([_restore_space(SPACE), space, decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def _normalizers(normalizer: normalizers.Normalizer | None) -> list[normalizers.Normalizer]:
    """The user's normalizer, and one that removes the space before TOKENS_AFTER_SPACE."""
    return [*([normalizer] if normalizer else []), normalizers.Replace(Regex(f" (?={TOKENS_AFTER_SPACE})"), "")]


def as_plain_text(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[str]:
    """The texts to give with split_special_tokens=True: a space before TOKENS_AFTER_SPACE is doubled.

    The normalizer removes one of them, although no such token is matched then.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is None or normalizer.normalize_str(" [MASK]") != "[MASK]":
        return texts
    return [re.sub(f" (?={TOKENS_AFTER_SPACE})", "  ", text) for text in texts]


def _restore_space(space: str) -> decoders.Decoder:
    """The decoder that restores the space before TOKENS_AFTER_SPACE."""
    return decoders.Replace(Regex(f"^(?=(?:{TOKENS_AFTER_SPACE})$)"), space)


def _prefix_space(space: str) -> list[pre_tokenizers.PreTokenizer]:
    """Put a space before every text and every given word, but not after an added token, so that " a" and "a" differ.

    Only Metaspace knows where a text begins, but it adds no space where its replacement character already is. So a
    blank is added first, as the normalized text has none left, and then replaced by the space character.
    """
    return [
        pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False),
        pre_tokenizers.Metaspace(replacement=space, prepend_scheme="never", split=False),
    ]


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of a text by the normalizer and pre-tokenizer of a tokenizer in training."""
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


def is_trained_here(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether `train_tokenizer` made the tokenizer, in this or an earlier run: it has that class and these tokens."""
    first = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), len(SPECIAL_TOKENS))))
    ends = (tokenizer.bos_token, tokenizer.eos_token)
    return type(tokenizer) is PreTrainedTokenizerFast and first == SPECIAL_TOKENS and ends == ("[CLS]", "[SEP]")
