"""Write a Markdown table of runs' results and published ones: `python -m seqblend.benchmarks.results DIR`."""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from ..data.errors import print_error
from ..data.objects import read_object


class Figure(NamedTuple):
    """A figure of a run, and the published figures to compare with.

    Args:
        what: data and task.
        key: in all_results.json.
        name: of the figure.
        published: published figures, with the names of their models.
        percent: whether to show the figure in percent.
        error_rate: whether to show 1 - value, as all_results.json has a success rate.
    """

    what: str
    key: str
    name: str
    published: str
    percent: bool = True
    error_rate: bool = False


# By the directory of the run. Published figures are from the named papers and repositories.
FIGURES = {
    "clinc150": Figure(
        "150 intents (Larson et al. 2019), encoder",
        "test_accuracy",
        "test accuracy",
        "naive Bayes 85.6, CNN 91.2, MLP 93.5, BERT (pretrained) 96.9",
    ),
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
        "most frequent tag 86.2, UDPipe 1 94.5, UDPipe 2 (pretrained) 97.5",
    ),
    "ud_en_ewt_encoder_decoder": Figure(
        "the same, encoder-decoder",
        "test_accuracy",
        "test accuracy",
        "as above",
    ),
    "g2p_korean": Figure(
        "Korean words to phones (SIGMORPHON 2021), encoder-decoder",
        "test_exact_match",
        "test word error rate",
        "shared task's baseline 16.3",
        error_rate=True,
    ),
    "tinyshakespeare": Figure(
        "characters of Tiny Shakespeare, decoder",
        "eval_loss",
        "validation loss, nats a character",
        "nanoGPT's recipe for a CPU 1.88",
        percent=False,
    ),
}


def row(name: str, figure: Figure, results: dict[str, Any]) -> str:
    """One row of the table."""
    value = 1 - results[figure.key] if figure.error_rate else results[figure.key]
    shown = f"{100 * value:.2f} %" if figure.percent else f"{value:.3f}"
    minutes = results["train_runtime"] / 60
    size = results["parameters"] / 1e6
    return f"| {figure.what} | {figure.name} | **{shown}** | {figure.published} | {size:.1f} M | {minutes:.1f} |"


def cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table: line ends become spaces, bars are escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def write_report(directory: Path) -> str:
    """The table of the runs in `directory`, with their commands and versions.

    Raises:
        FileNotFoundError: the directory has none of the runs in FIGURES.
        ValueError: the results of a run cannot be read.
    """
    runs = {name: read_object(path) for name in FIGURES if (path := directory / name / "all_results.json").exists()}
    if not runs:
        raise FileNotFoundError(f"{directory}: has none of the runs {', '.join(FIGURES)}")
    lines = [
        "# Results",
        "",
        "Trained from scratch, without pretraining, by the commands below. `make results` wrote this page from the",
        "runs' own `all_results.json`. Minutes are those of training alone.",
        "",
        "| data, architecture | figure | ours | published | parameters | minutes |",
        "|---|---|---|---|---|---|",
        *(row(name, FIGURES[name], results) for name, results in runs.items()),
        "",
        "| run | command | machine |",
        "|---|---|---|",
        *(f"| {name} | `{cell(results['command'])}` | {cell(results['machine'])} |" for name, results in runs.items()),
        "",
        "Versions: " + "; ".join(sorted({results["versions"] for results in runs.values()})) + ".",
    ]
    return "\n".join(lines)


def main() -> int:
    """Print the report on the given directory. The exit code is 1 if it has no run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="holds one directory a run")
    try:
        report = write_report(parser.parse_args().directory)
    except OSError as error:
        return print_error(error, 1)
    sys.stdout.write(report + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
