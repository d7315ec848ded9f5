"""Write a Markdown table of runs' results and published ones: `python -m seqblend.benchmarks.results RUNS STORE`."""

import argparse
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev
from textwrap import wrap
from typing import Any, NamedTuple

from ..data.errors import print_error
from ..data.objects import read_object
from .levers import BASE, TOGETHER
from .phones import phones_table, run_names


class Figure(NamedTuple):
    """A figure of a run, and the published figures to compare with.

    Args:
        what: data and task.
        key: in all_results.json.
        name: of the figure.
        published: published figures, with the names of their models.
        start: what training starts from.
        percent: whether to show the figure in percent.
        error_rate: whether to show 1 - value, as all_results.json has a success rate.
    """

    what: str
    key: str
    name: str
    published: str
    start: str = "from scratch"
    percent: bool = True
    error_rate: bool = False


MINILM, SMOLLM2 = "MiniLM-L6", "SmolLM2-135M-Instruct"
# By the directory of the run. Published figures are from the named papers and repositories, or computed here.
FIGURES = {
    "clinc150": Figure(
        "150 intents (Larson et al. 2019), encoder",
        "test_accuracy",
        "test accuracy",
        "naive Bayes 85.6 (computed here), CNN 91.2, MLP 93.5, BERT (pretrained) 96.9",
    ),
    "minilm_clinc150": Figure("the same", "test_accuracy", "test accuracy", "as above", MINILM),
    "clinc150_decoder": Figure(
        "the same, decoder",
        "test_accuracy",
        "test accuracy",
        "as above",
    ),
    "ud_en_ewt": Figure(
        "17 parts of speech (UD English EWT), encoder",
        "test_accuracy",
        "test accuracy",
        "most frequent tag 86.2 (computed here), UDPipe 1 94.5, UDPipe 2 (pretrained) 97.5",
    ),
    "minilm_ud_en_ewt": Figure("the same", "test_accuracy", "test accuracy", "as above", MINILM),
    "ud_en_ewt_encoder_decoder": Figure(
        "the same, encoder-decoder",
        "test_accuracy",
        "test accuracy",
        "as above",
    ),
    "ud_en_ewt_lstm": Figure("the same, encoder of LSTMs", "test_accuracy", "test accuracy", "as above"),
    "wnut17": Figure(
        "names of six kinds in noisy texts (WNUT-17), encoder",
        "test_f1",
        "test F1 of names",
        "shared task: median 40.0, best 41.9; BERTweet (pretrained) 56.5",
    ),
    "minilm_wnut17": Figure("the same", "test_f1", "test F1 of names", "as above", MINILM),
    "g2p_korean": Figure(
        "Korean words to phones (SIGMORPHON 2021), encoder-decoder",
        "test_exact_match",
        "test word error rate",
        "shared task's baseline 16.3",
        error_rate=True,
    ),
    "smollm2_intents": Figure(
        "150 intents as chats (CLINC150), decoder",
        "test_perplexity",
        "test perplexity of the answers",
        "",
        SMOLLM2,
        percent=False,
    ),
    "tinyshakespeare": Figure(
        "characters of Tiny Shakespeare, decoder",
        "eval_loss",
        "validation loss, nats a character",
        "nanoGPT's recipe for a CPU 1.88",
        percent=False,
    ),
    "tinyshakespeare_lstm": Figure(
        "the same, decoder of LSTMs", "eval_loss", "validation loss, nats a character", "as above", percent=False
    ),
}


# Characters in a line of prose.
WIDTH = 120

# What the runs with out-of-scope questions show besides, by the key in all_results.json.
SURENESS = {
    "test_accuracy": "accuracy",
    "test_expected_calibration_error_before": "calibration error before",
    "test_expected_calibration_error": "and after",
    "test_known_accuracy": "accuracy with abstaining",
    "test_unknown_recall": "out-of-scope recall",
    "test_unknown_auroc": "AUROC",
}
# Larson et al. 2019, table 2, "Full", whose classifiers were trained with out-of-scope questions, too.
PUBLISHED_SURENESS = (
    "Published out-of-scope recall (Larson et al. 2019): FastText 9.7, SVM 14.5, CNN 18.9, MLP 47.4, BERT",
    "(pretrained) 40.3 %, all trained with 100 out-of-scope questions. Ours are not trained with",
    "any; 100 others choose the threshold.",
)


def sureness_table(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The table of the runs with out-of-scope questions, in percent; empty without such a run."""
    rows = [
        (name, FIGURES[name].start, *(f"{100 * results[key]:.1f}" for key in SURENESS))
        for name, seeds in runs.items()
        for results in seeds
        if all(key in results for key in SURENESS)
    ]
    if not rows:
        return []
    head = ["run", "start", *(f"{name}, %" for name in SURENESS.values())]
    return [
        "## Probabilities and out-of-scope questions",
        "",
        "On the test rows ([answers.md](answers.md)); abstaining may cost one point of accuracy on validation.",
        *PUBLISHED_SURENESS,
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
    ]


def levers_table(store: Path) -> list[str]:
    """The table of the levers of quality, on validation; empty without any.

    They are in `levers_NAME.json` and, with another base, in `levers_NAME-OTHER.json`.
    """
    rows, notes = [], []
    for path in sorted(store.glob("levers_*.json")):
        stored = read_object(path)
        notes += stored.get("notes", [])
        values, base = stored["values"], stored["values"][BASE]
        what = FIGURES[path.stem.removeprefix("levers_").partition("-")[0]].what
        names = {BASE: "the runs themselves", **stored.get("names", {})}
        for lever, seeds in values.items():
            alone = lever.removesuffix(TOGETHER)
            name = names.get(alone, alone)
            if lever != alone:
                cells = (f"{name}, {len(values[alone])} seeds as an ensemble", f"{100 * seeds['together']:.2f}", "")
            else:
                gains = [100 * (seeds[seed] - base[seed]) for seed in seeds]
                difference = "" if lever == BASE else with_error(gains, sign="+")
                cells = (name, with_error([100 * value for value in seeds.values()]), difference)
            rows.append(f"| {what} | {' | '.join(cells)} |")
    if not rows:
        return []
    return [
        "## Settings compared",
        "",
        "From scratch, on validation, in percent: the mean over seeds with its standard error, and the difference to",
        "the same seeds of the base, which is the nearest row above that has no difference and is no ensemble. A",
        "value without an error is of one seed, or of one ensemble. Measured are right answers: rows, words or whole",
        "outputs. `python -m seqblend.benchmarks.levers` measures them.",
        "",
        "| data | setting | value | difference |",
        "|---|---|---|---|",
        *rows,
        "",
        *(line for note in notes for line in (*wrap(note, WIDTH), "")),
    ]


def with_error(values: list[float], sign: str = "") -> str:
    """The mean of values and its standard error."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.2f}{error}"


def row(figure: Figure, seeds: list[dict[str, Any]]) -> str:
    """One row of the table: the mean of runs that differ in the seed, and the figure of each if there are several."""
    values = [1 - results[figure.key] if figure.error_rate else results[figure.key] for results in seeds]
    numbers = [f"{100 * value:.2f}" if figure.percent else f"{value:.3f}" for value in (mean(values), *values)]
    shown = f"**{numbers[0]}{' %' if figure.percent else ''}**"
    if len(values) > 1:
        shown += f" ({', '.join(numbers[1:])})"
    minutes = mean(results["train_runtime"] for results in seeds) / 60
    size = seeds[0]["parameters"] / 1e6
    cells = (figure.what, figure.start, figure.name, shown, figure.published, f"{size:.1f} M", f"{minutes:.1f}")
    return f"| {' | '.join(cells)} |"


def collect(runs: Path, store: Path) -> None:
    """Copy the results of finished runs, `runs/NAME/all_results.json`, to `store/NAME.json`.

    The results of the run `NAME` in FIGURES and of `NAME_seed*`, its repetitions, are copied, and those of the
    languages of `phones`.
    """
    store.mkdir(parents=True, exist_ok=True)
    for name in (*FIGURES, *run_names()):
        for run in (runs / name, *sorted(runs.glob(f"{name}_seed*"))):
            if (results := run / "all_results.json").exists():
                shutil.copyfile(results, store / f"{run.name}.json")


def read_seeds(store: Path, name: str) -> list[dict[str, Any]]:
    """The results of the run `name` and of its repetitions; empty if there is none.

    Raises:
        ValueError: the results of a run cannot be read.
    """
    paths = [store / f"{name}.json", *sorted(store.glob(f"{name}_seed*.json"))]
    return [read_object(path) for path in paths if path.exists()]


def cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table: line ends become spaces, bars are escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def write_report(store: Path) -> str:
    """The table of the runs in `store`, with their commands and versions.

    Raises:
        FileNotFoundError: it has none of the runs in FIGURES.
        ValueError: the results of a run cannot be read.
    """
    known = {name: seeds for name in (*FIGURES, *run_names()) if (seeds := read_seeds(store, name))}
    runs = {name: known[name] for name in FIGURES if name in known}
    if not runs:
        raise FileNotFoundError(f"{store}: has none of the runs {', '.join(FIGURES)}")
    lines = [
        "# Results",
        "",
        "Trained by the commands below, from scratch or from a published checkpoint. `make results` copied the runs'",
        "own `all_results.json` to [results/](results/) and wrote this page from them. Minutes are those of training",
        "alone. Where several runs differ in the seed, the figure is their mean, followed by that of each.",
        "",
        "| data, architecture | start | figure | ours | published | parameters | minutes |",
        "|---|---|---|---|---|---|---|",
        *(row(FIGURES[name], seeds) for name, seeds in runs.items()),
        "",
        *sureness_table(runs),
        *levers_table(store),
        *phones_table(store),
        "## Commands",
        "",
        "| run | command | machine |",
        "|---|---|---|",
        *(
            f"| {name} | `{cell(results['command'])}` | {cell(results['machine'])} |"
            for name, seeds in known.items()
            for results in seeds
        ),
        "",
        "Versions: " + "; ".join(sorted({results["versions"] for seeds in known.values() for results in seeds})) + ".",
    ]
    return "\n".join(lines)


def main() -> int:
    """Collect the results and print the report on all of them. The exit code is 1 if there is none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="holds one directory a run")
    parser.add_argument("store", type=Path, help="the directory of the collected results")
    args = parser.parse_args()
    try:
        collect(args.runs, args.store)
        report = write_report(args.store)
    except OSError as error:
        return print_error(error, 1)
    sys.stdout.write(report + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
