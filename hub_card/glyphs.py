"""Fonts for the characters of a text, and a visible form of every text.

Texts are drawn unchanged, except for characters that are invisible or that no font has: these are replaced (see
visible_text). Fonts of FONT_PACKAGES are registered in Matplotlib's font manager.
"""

import logging
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata

from matplotlib.font_manager import FontProperties, findSystemFonts, fontManager, get_font

logger = logging.getLogger(__name__)

# Part of Matplotlib. It has Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic, Georgian, and all signs used here.
DEFAULT_FONT = "DejaVu Sans"
# Python packages with font files: the extra `fonts`.
FONT_PACKAGES = (
    "fontpkg-noto-sans-devanagari",
    "fontpkg-noto-sans-tamil",
    "fontpkg-noto-sans-thai",
    "cvttf-notosanscjk-regular",
)
SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
# Unicode categories: control and format characters, surrogates, private use, unassigned, line separators.
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
# They select the plain or the coloured form of the character before, but a font has only one form.
VARIATION_SELECTORS = {"\ufe0e", "\ufe0f"}


def fonts_for(texts: Iterable[str]) -> list[str]:
    """The font families for texts, in the order of rcParams["font.family"].

    Args:
        texts: the texts to draw.

    Returns:
        DejaVu Sans, then other families that are needed: of FONT_PACKAGES first, then of the system.
    """
    return find_families({character for text in texts for character in text})[0]


def visible_text(text: str, *, max_width: int | None = None) -> str:
    """A form of a text in which every character is visible.

    Args:
        text: any text.
        max_width: replace the middle of a wider text by an ellipsis; in letters, see text_width.

    Returns:
        The text, with signs for spaces at its ends, and a circle under a combining mark at its start. Characters that
        are invisible, or that no font has, are written as ⟨U+200C⟩.
    """
    text = text[:1] + "".join(character for character in text[1:] if character not in VARIATION_SELECTORS)
    if uncovered := find_families(set(text))[1]:
        warn_of_missing_fonts()
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    pieces: list[str] = []
    for position, character in enumerate(text):
        kind = unicodedata.category(character)
        if kind == "Zs" and start <= position < end:
            pieces.append(" ")
        elif character in SIGNS:
            pieces.append(SIGNS[character])
        elif kind in INVISIBLE or character in uncovered:
            pieces.append(f"⟨U+{ord(character):04X}⟩")
        elif kind[0] != "M":
            pieces.append(character)
        elif pieces:  # a letter and its combining marks are one piece
            pieces[-1] += character
        else:
            pieces.append(f"◌{character}")
    return "".join(pieces if max_width is None else cut_middle(pieces, max_width))


def cut_middle(pieces: list[str], max_width: int) -> list[str]:
    """Replace pieces in the middle by an ellipsis until all fit into a width; at least one piece remains."""
    if sum(map(text_width, pieces)) <= max_width:
        return pieces
    pieces = pieces[:max_width] + pieces[max_width:][-max_width:]
    while len(pieces) > 1 and sum(map(text_width, pieces)) > max_width - 1:
        pieces.pop(len(pieces) // 2)
    pieces.insert((len(pieces) + 1) // 2, "…")
    return pieces


def text_width(text: str) -> int:
    """The width of a text in Latin letters: 2 for a Chinese character, 0 for a mark above or below a letter."""
    marks = sum(unicodedata.category(character) in ("Me", "Mn") for character in text)
    return len(text) - marks + sum(unicodedata.east_asian_width(character) in "WF" for character in text)


def find_families(characters: set[str]) -> tuple[list[str], set[str]]:
    """The font families for visible characters, and the characters that no family has."""
    families, missing = [DEFAULT_FONT], {each for each in characters if unicodedata.category(each) not in INVISIBLE}
    for family in font_families():
        covered = {character for character in missing if has_glyph(family, character)}
        if covered and family != DEFAULT_FONT:
            families.append(family)
        missing -= covered
        if not missing:
            break
    return families, missing


def font_families() -> Iterator[str]:
    """All font families, in the order of preference."""
    yield DEFAULT_FONT
    for distribution in FONT_PACKAGES:
        yield from package_families(distribution)
    yield from (listed := sorted(listed_families()))
    read_new_fonts()
    yield from sorted(listed_families() - set(listed))


def listed_families() -> set[str]:
    """The families that Matplotlib knows, without the last-resort font, which draws a box for every character."""
    return {font.name for font in fontManager.ttflist if "resort" not in font.name.lower()}


@cache
def read_new_fonts() -> None:
    """Register fonts that were installed after Matplotlib wrote its font cache."""
    for path in sorted({*findSystemFonts()} - {font.fname for font in fontManager.ttflist}):
        # Matplotlib's addfont raises errors of any class for damaged files; Matplotlib ignores such files as well.
        with suppress(Exception):
            fontManager.addfont(path)


@contextmanager
def ignore_font_weights() -> Iterator[None]:
    """Inside the block, Matplotlib does not warn that a family has no regular weight: another weight is used."""
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
    """Register the fonts of a Python package; returns their families, or none if it is not installed."""
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
    """Whether the regular font of a family has a visible glyph for a character."""
    properties = FontProperties(family=[family], style="normal", weight="normal")
    try:
        with ignore_font_weights():
            font = get_font(fontManager.findfont(properties, fallback_to_default=False))
        return font.get_char_index(ord(character)) > 0 and font.load_char(ord(character)).width > 0
    except (OSError, RuntimeError):  # the file was deleted after it was listed, or the font has no outlines
        return False


@cache
def warn_of_missing_fonts() -> None:
    """Warn once of characters that no font has, and say how to get fonts."""
    logger.warning(
        "Characters that no font has are drawn as ⟨U+1234⟩. `pip install seqblend[fonts]` installs fonts for Chinese, "
        "Devanagari, Japanese, Korean, Tamil and Thai; for other scripts, install a font on the system."
    )
