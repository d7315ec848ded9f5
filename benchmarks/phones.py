"""The table of words to phones in the 21 languages of SIGMORPHON 2021, which `benchmarks.results` writes."""

from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from ..data.objects import read_object

# Word error rates of the shared task's baseline on its development and test words, in percent, by the number of
# training words: README.md of github.com/sigmorphon/2021-task1.
BASELINES = {
    800: {
        "ady": (22.0, 22.0),
        "gre": (5.0, 21.0),
        "ice": (11.0, 12.0),
        "ita": (22.0, 19.0),
        "khm": (34.0, 34.0),
        "lav": (41.0, 55.0),
        "mlt_latn": (20.0, 19.0),
        "rum": (10.0, 10.0),
        "slv": (43.0, 49.0),
        "wel_sw": (16.0, 10.0),
    },
    8000: {
        "arm_e": (4.5, 7.0),
        "bul": (8.3, 18.3),
        "dut": (10.8, 14.7),
        "fre": (7.4, 8.5),
        "geo": (0.0, 0.0),
        "hbs_latn": (34.7, 32.1),
        "hun": (1.5, 1.8),
        "jpn_hira": (6.2, 5.2),
        "kor": (18.4, 16.3),
        "vie_hanoi": (1.3, 2.5),
    },
    33344: {"eng_us": (45.13, 41.94)},
}
# The figures of a run that the table reads.
FIGURES = ("eval_exact_match", "test_exact_match")


def run_names() -> list[str]:
    """The names of the runs of all languages, and of their records."""
    return [f"g2p_{language}" for languages in BASELINES.values() for language in languages]


def phones_table(store: Path) -> list[str]:
    """The word error rates of all languages of which `store` has a record; empty without any."""
    lines, missing = [], []
    epochs: dict[str, str] = {}
    for words, languages in BASELINES.items():
        found = {}
        for language, published in languages.items():
            results = read_object(store / f"g2p_{language}.json")
            if results.keys() >= {*FIGURES, "epoch"}:
                found[language] = (*published, *(100 * (1 - results[key]) for key in FIGURES))
                epochs[language] = f"{results['epoch']:g}"
            else:
                missing.append(language)
        lines += [line(f"{language}, {words:,} words", epochs[language], errors) for language, errors in found.items()]
        if len(found) == len(languages) > 1:
            lines.append(line(f"**mean of the {len(found)}**", "", map(mean, zip(*found.values(), strict=True))))
    if not lines:
        return []
    return [
        "## Words to phones in 21 languages",
        "",
        "Word error rates in percent, from scratch, one model for each language; the shared task's baseline is an",
        "ensemble. Of the languages with 800 training words, validation and test have 100 words each. The second",
        "column has --num_train_epochs, which replaces that of the example where it differs.",
        *([f"Not trained here: {', '.join(missing)}."] if missing else []),
        "",
        "| language | epochs | baseline, validation | baseline, test | ours, validation | ours, test |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
    ]


def line(name: str, epochs: str, errors: Iterable[float]) -> str:
    """A row of the table."""
    return f"| {name} | {epochs} | {' | '.join(f'{error:.1f}' for error in errors)} |"
