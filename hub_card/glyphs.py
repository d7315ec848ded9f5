"""What can be drawn of a text: which fonts have its characters, and how it is written so that all can be seen.

Texts are drawn as they stand; what no font has, or looks like nothing, is spelt out (see shown). Matplotlib's font
manager keeps the fonts of FONT_PACKAGES.
"""

import logging
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata

from matplotlib.font_manager import FontProperties, findSystemFonts, fontManager, get_font

logger = logging.getLogger(__name__)

# Comes with Matplotlib: Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic, Georgian, and every sign used here.
DEFAULT_FONT = "DejaVu Sans"
# Distributions that hold font files: the extra `fonts`.
FONT_PACKAGES = (
    "fontpkg-noto-sans-devanagari",
    "fontpkg-noto-sans-tamil",
    "fontpkg-noto-sans-thai",
    "cvttf-notosanscjk-regular",
)
SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
# Controls, formats such as joiners, surrogates, private and unassigned characters, separators.
NOTHING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
# They ask for the plain or the coloured form of the character before, which is drawn in the form that there is.
VARIATION_SELECTORS = {"\ufe0e", "\ufe0f"}


def fonts_for(texts: Iterable[str]) -> list[str]:
    """The font families in which Matplotlib shall look for each glyph in turn, for rcParams["font.family"].

    Args:
        texts: what will be drawn.

    Returns:
        DejaVu Sans, then what is needed beside it: fonts of FONT_PACKAGES, then any that the system has.
    """
    return cover({character for text in texts for character in text})[0]


def shown(text: str, *, most: int | None = None) -> str:
    """What to draw for a text, such that every character of it can be seen.

    Args:
        text: any text.
        most: cut the middle out of what is wider than so many letters.

    Returns:
        The text, where spaces at its ends are signs and a combining mark that begins it stands on a circle. What no
        font covers, or would look like nothing, is written as ⟨U+200C⟩.
    """
    text = text[:1] + "".join(character for character in text[1:] if character not in VARIATION_SELECTORS)
    if uncovered := cover(set(text))[1]:
        hint_at_fonts()
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    pieces: list[str] = []
    for position, character in enumerate(text):
        kind = unicodedata.category(character)
        if kind == "Zs" and start <= position < end:
            pieces.append(" ")
        elif character in SIGNS:
            pieces.append(SIGNS[character])
        elif kind in NOTHING or character in uncovered:
            pieces.append(f"⟨U+{ord(character):04X}⟩")
        elif kind[0] != "M":
            pieces.append(character)
        elif pieces:  # a letter and its marks are one piece
            pieces[-1] += character
        else:
            pieces.append(f"◌{character}")
    return "".join(pieces if most is None else without_middle(pieces, most=most))


def without_middle(pieces: list[str], *, most: int) -> list[str]:
    """Put an ellipsis for pieces in the middle, until the rest is at most so wide; one piece is left at least."""
    if sum(map(letters, pieces)) <= most:
        return pieces
    pieces = pieces[:most] + pieces[most:][-most:]
    while len(pieces) > 1 and sum(map(letters, pieces)) > most - 1:
        pieces.pop(len(pieces) // 2)
    pieces.insert((len(pieces) + 1) // 2, "…")
    return pieces


def letters(text: str) -> int:
    """How wide a text is, in Latin letters: a Chinese character is two wide, a mark above or below none."""
    marks = sum(unicodedata.category(character) in ("Me", "Mn") for character in text)
    return len(text) - marks + sum(unicodedata.east_asian_width(character) in "WF" for character in text)


def cover(characters: set[str]) -> tuple[list[str], set[str]]:
    """The families to draw characters in, and those characters that none covers; what shows nothing needs none."""
    families, missing = [DEFAULT_FONT], {each for each in characters if unicodedata.category(each) not in NOTHING}
    for family in font_families():
        covered = {character for character in missing if has_glyph(family, character)}
        if covered and family != DEFAULT_FONT:
            families.append(family)
        missing -= covered
        if not missing:
            break
    return families, missing


def font_families() -> Iterator[str]:
    """Every family there is, in the order in which to look."""
    yield DEFAULT_FONT
    for distribution in FONT_PACKAGES:
        yield from package_families(distribution)
    yield from (listed := sorted(listed_families()))
    read_new_fonts()
    yield from sorted(listed_families() - set(listed))


def listed_families() -> set[str]:
    """The families that Matplotlib knows of; the last resort, which has a box for every character, is none."""
    return {font.name for font in fontManager.ttflist if "resort" not in font.name.lower()}


@cache
def read_new_fonts() -> None:
    """Make known what was installed since Matplotlib listed the fonts, which it does once and keeps in a file."""
    for path in sorted({*findSystemFonts()} - {font.fname for font in fontManager.ttflist}):
        # Of a file that is no font it has exceptions of many kinds, and passes over it in its own list, too.
        with suppress(Exception):
            fontManager.addfont(path)


@contextmanager
def of_any_weight() -> Iterator[None]:
    """Let Matplotlib not warn that a family has no regular weight: another will do."""
    messages = logging.getLogger("matplotlib.font_manager")

    def passes(record: logging.LogRecord) -> bool:
        return "font weight" not in record.getMessage()

    messages.addFilter(passes)
    try:
        yield
    finally:
        messages.removeFilter(passes)


@cache
def package_families(distribution: str) -> list[str]:
    """Make the font files of a distribution known to Matplotlib; their families, or none where it is absent."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return []
    paths = [str(file.locate()) for file in files if file.suffix in (".otf", ".ttf")]
    for path in paths:
        fontManager.addfont(path)
    return [font.name for font in fontManager.ttflist if font.fname in paths]


@cache
def has_glyph(family: str, character: str) -> bool:
    """Whether the regular font of a family has something to draw for a character."""
    properties = FontProperties(family=[family], style="normal", weight="normal")
    try:
        with of_any_weight():
            font = get_font(fontManager.findfont(properties, fallback_to_default=False))
        return font.get_char_index(ord(character)) > 0 and font.load_char(ord(character)).width > 0
    except (OSError, RuntimeError):  # the file has gone since Matplotlib listed it, or has no outlines
        return False


@cache
def hint_at_fonts() -> None:
    """Say once how to see more."""
    logger.warning(
        "Characters that no font has are drawn as ⟨U+1234⟩. `pip install seqblend[fonts]` brings fonts for Chinese, "
        "Devanagari, Japanese, Korean, Tamil and Thai; for others, any font that the system has will do."
    )
