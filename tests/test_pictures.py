import dataclasses
import logging
import math
import sys
from contextlib import contextmanager
from itertools import chain, pairwise

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from scipy.stats import binomtest
from seqeval.metrics import classification_report
from sklearn.metrics import f1_score, precision_recall_fscore_support

from seqblend.hub_card import glyphs, pictures
from seqblend.hub_card.pictures import (
    draw_blending,
    draw_confusion,
    draw_label_scores,
    draw_learning_curves,
    draw_score_by_length,
    draw_tag_scores,
)
from seqblend.reports.compare import draw_differences
from seqblend.reports.statistics import Difference
from seqblend.scoring.tags import find_scheme

pytestmark = pytest.mark.filterwarnings("error")  # Matplotlib warns of each glyph that is missing, and draws a box

TEXTS = [
    "한국어",
    "日本語",
    "中文",
    "ภาษาไทย",
    "தமிழ்",
    "हिन्दी",
    "العربية",
    "עברית",
    "ქართული",
    "հայերեն",
    "😀❤️🥲",
    "\n\x00\u200c\ud800",
    "$x_1$ \\frac{",
    " ",
    "\u0301",
    "a very long label that nobody would ever want to read to its end",
]
LOGGED = [{"step": step, "loss": 300 / step, "num_input_tokens_seen": 1000 * step} for step in (100, 200, 300)]
EVALUATED = [
    {"step": step, "eval_loss": 1.5, "eval_accuracy": 0.5, "num_input_tokens_seen": 1000 * step} for step in (150, 300)
]
# Each function on small data in which the texts are all that can be chosen.
DRAWINGS = {
    "learning_curves": lambda path, texts: draw_learning_curves(
        [{"step": step, "loss": 2 / step, "eval_" + texts[0]: 0.5} for step in (1, 2)],
        path,
        metric="eval_" + texts[0],
        note=" ".join(texts),
    ),
    "confusion": lambda path, texts: draw_confusion(texts, texts[1:] + texts[:1], path, max_labels=len(texts)),
    "label_scores": lambda path, texts: draw_label_scores(
        [[text] for text in texts], [[text] for text in texts[1:] + texts[:1]], path
    ),
    "tag_scores": lambda path, texts: draw_tag_scores([texts], [texts[1:] + texts[:1]], path),
    "score_by_length": lambda path, texts: draw_score_by_length(
        range(20), [0, 1] * 10, path, length_name=texts[0], score_name=texts[-2]
    ),
    "blending": lambda path, texts: draw_blending(
        np.eye(len(texts)), path, queries=texts, keys=texts, title="".join(texts)
    ),
}
every_drawing = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=list(DRAWINGS))


@contextmanager
def only_dejavu(*others: str):
    """As where no font package is installed, and no font but Matplotlib's own."""
    with pytest.MonkeyPatch.context() as patch:
        fonts = [font for font in glyphs.fontManager.ttflist if font.name in (glyphs.DEFAULT_FONT, *others)]
        patch.setattr(glyphs.fontManager, "ttflist", fonts)
        patch.setattr(glyphs, "FONT_PACKAGES", ())
        patch.setattr(glyphs, "read_new_fonts", lambda: None)
        yield


@pytest.fixture(params=["fonts", "no fonts"])
def fonts(request):
    if request.param == "no fonts":
        with only_dejavu():
            yield False
        return
    yield True


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn in a test."""
    made = []

    class KeptFigure(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(pictures, "Figure", KeptFigure)
    return made


def texts_of(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def strings_of(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in texts_of(figure))


# --- text ------------------------------------------------------------------------------------------------------------


def test_matplotlib_warns_of_a_missing_glyph():
    figure = Figure()
    figure.text(0, 0, "한", family=glyphs.DEFAULT_FONT)
    with pytest.warns(UserWarning, match=r"Glyph 54620 .* missing from"):
        FigureCanvasAgg(figure).draw()


@every_drawing
def test_no_glyph_is_missing_and_all_is_legible(draw, fonts, figures, tmp_path):
    draw(tmp_path / "picture.png", TEXTS)
    (figure,) = figures
    assert ("⟨U+D55C⟩" in strings_of(figure)) is not fonts
    assert ("한" in strings_of(figure)) is fonts
    sheet = figure.bbox.padded(1)
    for text in texts_of(figure):
        box = text.get_window_extent()
        inside = [sheet.contains(*corner) for corner in box.corners()]
        assert all(inside) or not any(inside), f"cut off: {text}"  # a tick beyond the axis is not drawn, but kept
        assert text.get_size() >= 8, f"less than 11 pixels: {text}"
        assert not text.get_parse_math()


@every_drawing
def test_every_axis_says_what_it_is(draw, figures, tmp_path):
    draw(tmp_path / "picture.png", ["A", "B", "C"])
    for axes in figures[0].axes:
        if axes.get_label() == "<colorbar>":
            assert axes.get_ylabel()
        else:
            assert axes.get_xlabel()
            # Their bars have a name each.
            assert axes.get_ylabel() or draw in (DRAWINGS["tag_scores"], DRAWINGS["label_scores"])


@pytest.mark.parametrize("text, expected", [
    ("a b", "a b"),
    ("a\u00a0b", "a b"),
    (" ", "␣"),
    (" a ", "␣a␣"),
    ("\u00a0", "⟨U+00A0⟩"),
    ("a\nb\t", "a↵b⇥"),
    ("\u200c", "⟨U+200C⟩"),
    ("a\u200cb", "a⟨U+200C⟩b"),
    ("\x00", "⟨U+0000⟩"),
    ("\ud800", "⟨U+D800⟩"),
    ("\u2800", "⟨U+2800⟩"),  # Braille without a dot: a glyph, but nothing to see
    ("❤\ufe0f", "❤"),
    ("\u0301", "◌\u0301"),
    ("e\u0301", "e\u0301"),
    ("$x_1$", "$x_1$"),
    ("", ""),
])  # fmt: skip
def test_shown(text, expected):
    with only_dejavu():
        assert glyphs.visible_text(text) == expected


@settings(max_examples=50)
@given(text=st.text(), most=st.integers(3, 20))
def test_what_is_shown_can_be_seen_and_is_not_too_wide(text, most):
    with only_dejavu():
        shown = glyphs.visible_text(text, max_width=most)
        characters = set(shown) - {" "}
        assert all(glyphs.has_glyph(glyphs.DEFAULT_FONT, character) for character in characters)
        assert shown == shown.strip()
        assert glyphs.text_width(shown) <= most or shown.startswith("⟨U+")


def test_long_texts_lose_their_middle():
    assert glyphs.visible_text("abcdefgh", max_width=8) == "abcdefgh"
    assert glyphs.visible_text("abcdefghi", max_width=8) == "abcd…ghi"
    assert glyphs.visible_text("e\u0301" * 9, max_width=4) == "e\u0301e\u0301…e\u0301"


def test_fonts_are_asked_for_only_where_needed(fonts):
    assert glyphs.fonts_for(["plain", "ελληνικά", "\n"]) == [glyphs.DEFAULT_FONT]
    families = glyphs.fonts_for(["한국어", "ไทย"])
    assert families[0] == glyphs.DEFAULT_FONT
    assert len(families) == (3 if fonts else 1)


def test_a_font_of_the_system_is_found(monkeypatch):
    monkeypatch.setattr(glyphs, "FONT_PACKAGES", ())
    assert len(glyphs.fonts_for(["Ⓐ"])) == 2  # STIX, which comes with Matplotlib, has it
    assert glyphs.visible_text("Ⓐ") == "Ⓐ"


def test_a_font_that_was_installed_after_matplotlib_listed_them_is_found(monkeypatch, tmp_path):
    """The list is kept in a file of the user's, and a font installed later was never seen."""
    (stix,) = {font.fname for font in glyphs.fontManager.ttflist if font.name == "STIXGeneral" and is_regular(font)}
    (tmp_path / "no font.ttf").write_bytes(b"nothing")
    read_new_fonts = glyphs.read_new_fonts.__wrapped__
    with only_dejavu():
        assert glyphs.visible_text("Ⓐ") == "⟨U+24B6⟩"
        monkeypatch.setattr(glyphs, "findSystemFonts", lambda: [stix, str(tmp_path / "no font.ttf")])
        monkeypatch.setattr(glyphs, "read_new_fonts", read_new_fonts)
        assert glyphs.visible_text("Ⓐ") == "Ⓐ"


def is_regular(font) -> bool:
    return font.style == "normal" and font.weight == 400


def test_no_warning_of_a_family_without_a_regular_weight(caplog):
    (bold,) = [font for font in glyphs.fontManager.ttflist if font.name == "STIXGeneral" and font.weight == 700][:1]
    entry = dataclasses.replace(bold, name="Heavy")
    with only_dejavu(), pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(glyphs.fontManager, "ttflist", [*glyphs.fontManager.ttflist, entry])
        assert glyphs.fonts_for(["Ⓐ"]) == [glyphs.DEFAULT_FONT, "Heavy"]
    assert not caplog.records


def test_the_last_resorts_boxes_are_no_glyphs():
    with only_dejavu("Last Resort High-Efficiency"):  # comes with Matplotlib 3.11
        assert glyphs.visible_text("한") == "⟨U+D55C⟩"


def test_a_font_package_that_is_absent_is_skipped(monkeypatch):
    monkeypatch.setattr(glyphs, "FONT_PACKAGES", ("no-such-distribution",))
    assert glyphs.fonts_for(["Ⓐ"])[0] == glyphs.DEFAULT_FONT


def test_one_hint_names_the_extra(caplog):
    glyphs.warn_of_missing_fonts.cache_clear()
    with only_dejavu(), caplog.at_level(logging.WARNING):
        glyphs.visible_text("\n plain")
        assert not caplog.records
        glyphs.visible_text("한")
        glyphs.visible_text("국")
    (record,) = caplog.records
    assert "pip install seqblend[fonts]" in record.getMessage()


# --- files -----------------------------------------------------------------------------------------------------------


def rc_params() -> dict:
    """All settings but the one that imports pyplot when it is read."""
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams.keys() - {"backend"}}


@every_drawing
def test_the_file_is_what_a_card_shows(draw, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    draw(tmp_path / "first.png", ["A", "B", "C"])
    with Image.open(tmp_path / "first.png") as image:
        assert image.format == "PNG"
        assert image.width == 1500
        assert image.info.keys() <= {"dpi"}  # no date, no software
        assert image.convert("RGB").getpixel((image.width - 1, image.height - 1)) == (255, 255, 255)
    assert (tmp_path / "first.png").stat().st_size < 150_000

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "savefig.dpi": 50, "font.weight": "bold"}):
        before = rc_params()
        draw(tmp_path / "second.png", ["A", "B", "C"])
        assert rc_params() == before
    assert (tmp_path / "second.png").read_bytes() == (tmp_path / "first.png").read_bytes()


# --- learning curves -------------------------------------------------------------------------------------------------


def axis_names(figure: Figure) -> list[tuple[str, str]]:
    return [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]


def lines(figure: Figure) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for axes in figure.axes for line in axes.get_lines()]


def test_learning_curves_run_over_tokens(figures, tmp_path):
    history = [*LOGGED, *EVALUATED, {"step": 300, "train_loss": 1.0, "train_runtime": 5.0}]
    assert draw_learning_curves(history, tmp_path / "curves.png", metric="eval_accuracy", note="Smoothed.") is True
    assert axis_names(figures[0]) == [("tokens seen", "loss"), ("tokens seen", "accuracy")]
    assert lines(figures[0]) == [
        ([100_000, 200_000, 300_000], [3.0, 1.5, 1.0]),
        ([150_000, 300_000], [1.5, 1.5]),
        ([150_000, 300_000], [0.5, 0.5]),
    ]
    assert {"Smoothed.", "training", "validation", "100k"} <= set(strings_of(figures[0]).split("\n"))


def test_learning_curves_run_over_steps_where_tokens_were_not_counted_throughout(figures, tmp_path):
    history = [*LOGGED, {"step": 300, "eval_loss": 1.5}]
    assert draw_learning_curves(history, tmp_path / "curves.png", metric="eval_accuracy") is True
    assert axis_names(figures[0]) == [("optimizer steps", "loss")]
    assert lines(figures[0])[0][0] == [100, 200, 300]


def test_learning_curves_leave_out_what_is_not_finite(figures, tmp_path):
    history = [*LOGGED, LOGGED[0] | {"loss": math.nan}, LOGGED[0] | {"loss": math.inf}]
    draw_learning_curves(history, tmp_path / "curves.png")
    assert lines(figures[0])[0][0] == [100_000, 200_000, 300_000]


@pytest.mark.parametrize("last, ends", [(1.0, True), (1.5, False)])
def test_an_axis_of_shares_ends_at_one(last, ends, figures, tmp_path):
    history = [{"step": 1, "eval_loss": 1.0, "eval_score": 0.0}, {"step": 2, "eval_loss": 0.5, "eval_score": last}]
    draw_learning_curves(history, tmp_path / "curves.png", metric="eval_score")
    loss, score = figures[0].axes
    assert (score.get_ylim() == (0, 1)) == ends and not score.get_lines()[0].get_clip_on()
    assert loss.get_ylim()[1] > 1


@pytest.mark.parametrize("last, logarithmic", [(1.0, False), (0.01, True), (0.0, False), (-1.0, False)])
def test_a_loss_that_falls_far_gets_a_logarithmic_axis(last, logarithmic, figures, tmp_path):
    draw_learning_curves([{"step": 1, "loss": 2.0}, {"step": 2, "loss": last}], tmp_path / "curves.png")
    assert axis_names(figures[0]) == [("optimizer steps", "loss (logarithmic)" if logarithmic else "loss")]
    assert "mathdefault" not in strings_of(figures[0])


@pytest.mark.parametrize("history", [[], [{"step": 1, "train_loss": 1.0}], LOGGED[:1]])
def test_without_two_points_no_learning_curve_is_written(history, tmp_path):
    assert draw_learning_curves(history, tmp_path / "curves.png", metric="eval_accuracy") is False
    assert not any(tmp_path.iterdir())


# --- confusion -------------------------------------------------------------------------------------------------------

# c and d are confused most and equally often, b is predicted for both; a and e are always right, and e is frequent.
REFERENCES = [*"aaabbccccdddd", *"eeeeeeee"]
PREDICTIONS = [*"aaabbcddbddcb", *"eeeeeeee"]


@pytest.mark.parametrize("most, expected", [(1, "c"), (2, "cd"), (3, "bcd"), (4, "bcde"), (5, "abcde"), (9, "abcde")])
def test_most_confused(most, expected):
    assert pictures.most_confused(REFERENCES, PREDICTIONS, max_labels=most) == [*expected]


def test_confusion_counts_every_example_of_its_labels():
    counts = pictures.confusion_counts(REFERENCES, PREDICTIONS, ["c", "d"])
    assert counts.tolist() == [[1, 2, 1], [1, 2, 1]]  # the last column: taken for b
    assert pictures.confusion_counts(REFERENCES, PREDICTIONS, [*"abcde"]).sum() == len(REFERENCES)


def test_confusion_says_what_it_leaves_out(figures, tmp_path):
    draw_confusion(REFERENCES, PREDICTIONS, tmp_path / "part.png", max_labels=3)
    draw_confusion(REFERENCES, PREDICTIONS, tmp_path / "all.png")
    part, whole = map(strings_of, figures)
    assert "the 3 most confused of 5 labels" in part and "(others)" in part
    assert "all 5 labels" in whole and "(others)" not in whole
    assert "Of all 21 examples, 16 are correct." in part


# --- labels ----------------------------------------------------------------------------------------------------------


def test_label_scores_are_scikit_learns():
    """Of one label and of several; a label that is only predicted has no example."""
    names = [*"abcde"]
    found = pictures.label_scores(REFERENCES, PREDICTIONS)
    expected = precision_recall_fscore_support(REFERENCES, PREDICTIONS, labels=names, zero_division=0)
    assert [found[name] for name in names] == [pytest.approx(each) for each in zip(*expected, strict=True)]
    # A label that a row names twice counts once.
    several = pictures.label_scores([["a", "b", "a"], ["a"], []], [["a"], ["b", "c"], ["a"]])
    assert several == {"a": (0.5, 0.5, 0.5, 2), "b": (0, 0, 0, 1), "c": (0, 0, 0, 0)}


def test_the_weakest_labels_are_drawn_and_no_axis_goes_beyond_one(figures, tmp_path):
    draw_label_scores(REFERENCES, PREDICTIONS, tmp_path / "part.png", max_bars=3)
    draw_label_scores(REFERENCES, PREDICTIONS, tmp_path / "all.png")
    part, whole = figures
    assert [label.get_text() for label in part.axes[0].get_yticklabels()] == ["b (2)", "d (4)", "c (4)"]
    assert "the 3 of 5 labels with the lowest F1" in strings_of(part) and "all 5 labels" in strings_of(whole)
    draw_tag_scores([["A", "B"]], [["A", "B"]], tmp_path / "tags.png")
    assert {axes.get_xlim() for figure in figures for axes in figure.axes} == {(0, 1)}


def test_without_a_label_no_scores_are_drawn(tmp_path):
    with pytest.raises(ValueError, match="no label"):
        draw_label_scores([[]], [[]], tmp_path / "labels.png")


# --- tags ------------------------------------------------------------------------------------------------------------

SPANS = [
    pytest.param([["B-X", "I-X", "O"], ["B-Y", "O"]], [["B-X", "O", "O"], ["B-Y", "B-Z"]], id="BIO"),
    pytest.param([["B-X", "E-X", "S-Y"]], [["B-X", "E-X", "S-X"]], id="IOBES"),
]


@pytest.mark.parametrize("references, predictions", SPANS)
def test_span_scores_are_seqevals(references, predictions):
    report = classification_report(references, predictions, output_dict=True, zero_division=0)
    expected = {name: (row["f1-score"], row["support"]) for name, row in report.items() if " " not in name}
    assert pictures.tag_scores(references, predictions, find_scheme(chain(*references, *predictions))) == expected


def test_bilou_is_scored_as_iobes():
    iobes, bilou = find_scheme(["B-X", "E-X", "S-X"]), find_scheme(["B-X", "L-X", "U-X"])
    expected = pictures.tag_scores([["B-X", "E-X", "S-Y"]], [["B-X", "E-X", "S-X"]], iobes)
    assert pictures.tag_scores([["B-X", "L-X", "U-Y"]], [["B-X", "L-X", "U-X"]], bilou) == expected


def test_tag_scores_are_scikit_learns():
    references, predictions = [["N", "V"], ["N", "N", "A"]], [["N", "N"], ["V", "N", "X"]]
    f1s = f1_score([*"NVNNA"], [*"NNVNX"], average=None, labels=[*"ANVX"], zero_division=0)
    expected = dict(zip("ANVX", zip(f1s, [1, 3, 1, 0], strict=True), strict=True))
    assert pictures.tag_scores(references, predictions, None) == expected


def test_bars_are_sorted_and_name_what_they_count(figures, tmp_path):
    draw_tag_scores([["N", "N", "V", "A", "A"]], [["N", "V", "V", "A", "A"]], tmp_path / "tags.png", max_bars=2)
    draw_tag_scores([["B-X", "B-Y", "B-Y"]], [["B-Y", "B-Y", "B-Y"]], tmp_path / "spans.png")
    tags, spans = figures
    assert [label.get_text() for label in tags.axes[0].get_yticklabels()] == ["A (2)", "N (2)"]
    assert [bar.get_width() for bar in tags.axes[0].patches] == pytest.approx([1, 2 / 3])
    assert "the 2 most frequent of 3 tags" in strings_of(tags) and "the number of words" in strings_of(tags)
    assert [label.get_text() for label in spans.axes[0].get_yticklabels()] == ["Y (2)", "X (1)"]
    assert "all 2 types of span" in strings_of(spans) and "the number of spans" in strings_of(spans)
    assert {"0.800", "0.000"} <= set(strings_of(spans).split("\n"))


def test_rows_of_tags_must_be_equally_long(tmp_path):
    with pytest.raises(ValueError, match="rows of references and predictions must have the same length"):
        draw_tag_scores([["A"], ["B", "B"]], [["A", "B"], ["B"]], tmp_path / "tags.png")


# --- lengths ---------------------------------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=100))
def test_bins_hold_every_example_once(lengths):
    bins = pictures.length_bins(np.array(lengths))
    assert 1 <= len(bins) <= 8
    assert sorted(np.concatenate(bins).tolist()) == list(range(len(lengths)))
    ranges = [{lengths[number] for number in numbers} for numbers in bins]
    assert all(max(shorter) < min(longer) for shorter, longer in pairwise(ranges))


@pytest.mark.parametrize("lengths, sizes", [
    (list(range(80)), [10] * 8),
    ([5] * 80, [80]),
    ([1] * 60 + [2, 3, 4, 5] * 5, [60, 10, 10]),
    ([3, 1, 2], [1, 1, 1]),
])  # fmt: skip
def test_bins_are_about_equal(lengths, sizes):
    assert [len(numbers) for numbers in pictures.length_bins(np.array(lengths))] == sizes


@pytest.mark.parametrize("right, count", [(0, 5), (5, 5), (3, 10), (990, 1000)])
def test_interval_is_wilsons(right, count):
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    interval = pictures.wilson_interval(right / count, count)
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= interval[0] < interval[1] <= 1


def test_score_by_length_draws_means_and_counts(figures, tmp_path):
    path = tmp_path / "lengths.png"
    draw_score_by_length([1, 2, 2, 2, 9], [1, 1, 0, 0.5, 0], path, length_name="words", score_name="accuracy")
    (axes,) = figures[0].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("words", "mean accuracy")
    assert list(axes.get_lines()[0].get_ydata()) == [1, 0.5, 0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1\nn = 1", "2\nn = 3", "9\nn = 1"]
    # The points at both ends are whole.
    assert axes.get_ylim() == (0, 1) and not axes.get_lines()[0].get_clip_on()


def test_scores_beyond_one_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"scores must be from 0 to 1, got 0\.5 to 37\.0"):
        draw_score_by_length([1, 2], [0.5, 37], tmp_path / "x.png", length_name="words", score_name="BLEU")


# --- blending --------------------------------------------------------------------------------------------------------


def test_blending_shows_the_first_tokens_and_says_so(figures, tmp_path):
    weights = np.full((57, 40), 1 / 40)
    queries, keys = [f"q{i}" for i in range(57)], [f"k{i}" for i in range(40)]
    draw_blending(weights, tmp_path / "both.png", queries=queries, keys=keys, title="Layer 1")
    draw_blending(weights[:2], tmp_path / "keys.png", queries=queries[:2], keys=keys, title="Layer 1")
    draw_blending(weights[:2, :3], tmp_path / "none.png", queries=queries[:2], keys=keys[:3], title="Layer 1")
    both, cut_keys, none = map(strings_of, figures)
    assert "Shown are rows 1 to 32 of 57 and columns 1 to 32 of 40. Each" in both and "not shown" in both
    assert {"q31", "k31"} <= set(both.split("\n")) and not {"q32", "k32"} & set(both.split("\n"))
    assert "Shown are rows 1 to 2 of 2 and columns 1 to 32 of 40." in cut_keys
    assert "Layer 1\n" in none and "Shown" not in none and "not shown" not in none


def test_blending_says_which_part_of_a_longer_text_it_shows(figures, tmp_path):
    tokens, more = [f"q{i}" for i in range(5)], {"shown": ((10, 15), (0, 5))}
    draw_blending(np.full((5, 5), 0.1), tmp_path / "map.png", queries=tokens, keys=tokens, title="Layer 1", **more)
    assert "Shown are rows 11 to 15 of 15 and columns 1 to 5 of 5." in strings_of(figures[0])
    assert "not shown" in strings_of(figures[0])
    draw_blending(np.eye(40), tmp_path / "self.png", queries=["a"] * 40, keys=["a"] * 40, title="Layer 1")
    assert "Shown are tokens 1 to 32 of 40." in strings_of(figures[1])


def test_blending_draws_rows_for_queries(figures, tmp_path):
    weights = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    draw_blending(weights, tmp_path / "map.png", queries=["a", "b"], keys=["x", "y", "z"], title="Layer 1")
    axes, bar = figures[0].axes
    assert axes.collections[0].get_array().tolist() == weights.tolist()
    assert (
        "attending" in axes.get_ylabel() and "attended" in axes.get_xlabel() and bar.get_ylabel() == "attention weight"
    )
    assert axes.yaxis_inverted()  # the first token stands at the top


@pytest.mark.parametrize("rows, columns", [(2, 2), (3, 3), (5, 12), (12, 5), (32, 32)])
def test_cells_are_nearly_square_or_fill_the_sheet(rows, columns, figures, tmp_path):
    tokens = [f"long token {number}" for number in range(32)]
    weights = np.full((rows, columns), 1 / columns)
    draw_blending(weights, tmp_path / "map.png", queries=tokens[:rows], keys=tokens[:columns], title="Layer 1")
    box = figures[0].axes[0].get_window_extent()
    shape = (box.width / columns) / (box.height / rows)
    assert 0.75 < shape < (3 if min(rows, columns) < 10 else 1.33)
    assert box.width > figures[0].bbox.width / 2


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (0, 3)])
def test_weights_must_fit_the_tokens(shape, tmp_path):
    with pytest.raises(ValueError, match=r"weights have shape \(\d, \d\), but there are 2 queries, 3 keys"):
        draw_blending(np.ones(shape), tmp_path / "map.png", queries=["a", "b"], keys=["x", "y", "z"], title="")


# --- both sides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first, second", [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_sides_must_be_as_many_and_at_least_one(first, second, tmp_path):
    message = rf"must have the same length, at least 1, but have \[{len(first)}, {len(second)}\]"
    with pytest.raises(ValueError, match=f"references and predictions {message}"):
        draw_confusion(first, second, tmp_path / "x.png")
    with pytest.raises(ValueError, match=f"references and predictions {message}"):
        draw_tag_scores([first], [second], tmp_path / "x.png")
    with pytest.raises(ValueError, match=f"lengths and scores {message}"):
        draw_score_by_length(first, second, tmp_path / "x.png", length_name="words", score_name="accuracy")
    assert not any(tmp_path.iterdir())


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_differences_are_drawn_with_their_intervals(figures, tmp_path):
    """One above the other, at the left of 0 or at the right, and coloured by whether they are shown to differ."""
    differences = {
        "accuracy": Difference(([0.5], [0.75]), 0.125, 0.375, 0.01),
        "macro_f1": Difference(([0.5], [0.25]), -0.75, 0.25, 0.5),
    }
    draw_differences(differences, tmp_path / "differences.png")
    (axes,) = figures[-1].axes
    assert [each.get_text() for each in axes.get_yticklabels()] == ["accuracy", "macro f1"]
    assert axes.get_ylim()[0] > 1 and axes.get_ylim()[1] < 0
    assert ([0, 0], [0, 1]) in lines(figures[-1])
    for place, (bar, each, color) in enumerate(
        zip(axes.containers, differences.values(), (pictures.BLUE, pictures.GREY), strict=True)
    ):
        point, _, (interval,) = bar
        assert (point.get_xdata().tolist(), point.get_ydata().tolist(), point.get_color()) == (
            [each.mean],
            [place],
            color,
        )
        assert interval.get_segments()[0].tolist() == [[each.low, place], [each.high, place]]
