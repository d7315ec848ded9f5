"""The lecture in a few minutes: one sentence, three task shapes, learnt on calendar dates in fifty languages."""

import argparse
import datetime
import json
import logging
import os
import sys
import time
from itertools import groupby
from pathlib import Path

import datasets
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.utils.logging import disable_progress_bar

from seqblend.data.dates import date_row, language_ceiling, load_dates
from seqblend.train import prepare

# As seen from here: it stands on the cards.
EXAMPLES = os.path.relpath(Path(__file__).parent)
SHAPES = ("n21", "n2n", "n2m")
# What each shape learns, and the metric of its results.
LEARNT = {
    "n21": ("which language?", "accuracy", "language_accuracy"),
    "n2n": ("which characters are the year, the month, the day, the weekday?", "field F1", "field_f1"),
    "n2m": ("which day, as 2031-04-17?", "exact match", "iso_exact_match"),
}
# Files of a run, beside its card: what they show.
PAGES = {
    "README.md": "card",
    "explore.html": "what it blends",
    "error_report.html": "errors",
    "data_report.md": "data",
}
# A day of the test split, in three scripts.
DAY, LANGUAGES = datetime.date(2031, 4, 17), ("ko", "el", "es")


def train(shape: str, output_dir: Path) -> dict[str, float]:
    """Run one of the three examples and return its results."""
    print(f"\n=== {shape.upper()} ===", flush=True)
    run_dir = output_dir / shape
    settings = f"{EXAMPLES}/dates_{shape}.yaml"
    prepare([settings, "--output_dir", str(run_dir), "--overwrite_output_dir", "true", "--disable_tqdm", "true"]).run()
    return json.loads((run_dir / "all_results.json").read_text())


def ask(shape: str, output_dir: Path, text: str) -> str:
    """What the trained model says about one text."""
    path = output_dir / shape
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    inputs = tokenizer(text, return_tensors="pt")
    if shape == "n21":
        model = AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=False)
        return model.config.id2label[model(**inputs).logits.argmax().item()]
    if shape == "n2n":
        model = AutoModelForTokenClassification.from_pretrained(path, trust_remote_code=False)
        # The first and last tokens are [CLS] and [SEP]; between them, each token is a character.
        tags = [model.config.id2label[tag] for tag in model(**inputs).logits[0, 1:-1].argmax(-1).tolist()]
        fields = [tag.partition("-")[2] for tag in tags]
        runs = groupby(zip(fields, text, strict=True), key=lambda pair: pair[0])
        spans = [(field, "".join(character for _, character in run)) for field, run in runs]
        return "".join(f"[{span} {field}]" if field else span for field, span in spans)
    model = AutoModelForSeq2SeqLM.from_pretrained(path, trust_remote_code=False)
    return tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True)


def overview(summary: dict[str, float], answers: dict[str, dict[str, str]], output_dir: Path) -> str:
    """A page of Markdown about the three runs, with links to their cards and pages.

    Args:
        summary: the results.
        answers: to each text, by shape.
        output_dir: of the runs.
    """
    lines = [
        "# One sentence, three shapes",
        "",
        "Three models, made of the same blocks, have learnt calendar dates in fifty languages. The results are those",
        "of days that training never saw.",
        "",
        "| shape | question | result | pages |",
        "|---|---|---|---|",
    ]
    for shape, (question, metric, name) in LEARNT.items():
        links = [f"[{kind}]({shape}/{file})" for file, kind in PAGES.items() if (output_dir / shape / file).exists()]
        lines.append(f"| {shape.upper()} | {question} | {metric} {100 * summary[name]:.2f} % | {', '.join(links)} |")
    lines += [
        "",
        f"A language can be named in {100 * summary['language_ceiling']:.2f} % of the texts: the others are texts of",
        "several languages.",
        "",
        "| text | " + " | ".join(shape.upper() for shape in LEARNT) + " |",
        "|---" * (1 + len(LEARNT)) + "|",
        *(
            f"| {text} | " + " | ".join(by_shape[shape] for shape in LEARNT) + " |"
            for text, by_shape in answers.items()
        ),
        "",
        "To ask a model, to look into it, and to open all three in a browser:",
        "",
        "```",
        *(f"seqblend predict {output_dir}/{shape} --text {next(iter(answers))!r}" for shape in LEARNT),
        f"seqblend explore {output_dir}/n2m --text {next(iter(answers))!r}",
        "seqblend serve " + " ".join(f"{output_dir}/{shape}" for shape in LEARNT),
        "```",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train the three shapes, print what they reach and what they say of three sentences, write an overview."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"))
    output_dir = parser.parse_args().output_dir
    start = time.perf_counter()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    disable_progress_bar()
    datasets.disable_progress_bars()
    results = {shape: train(shape, output_dir) for shape in SHAPES}
    ceiling = language_ceiling(load_dates()["test"])
    summary = {
        "language_accuracy": results["n21"]["test_accuracy"],
        "language_ceiling": ceiling,
        "field_f1": results["n2n"]["test_f1"],
        "iso_exact_match": results["n2m"]["test_exact_match"],
        "seconds": time.perf_counter() - start,
    }
    (output_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    reached = {name: f"{100 * value:.2f} %" for name, value in summary.items()}
    print("\nOn days that training never saw:\n")
    print(f"  N21  which language?     accuracy     {reached['language_accuracy']}")
    print(f"       of {reached['language_ceiling']} that can be reached: some texts are of several languages")
    print(f"  N2N  which characters?   field F1     {reached['field_f1']}")
    print(f"  N2M  which day?          exact match  {reached['iso_exact_match']}\n")
    texts = [date_row(DAY, language)["text"] for language in LANGUAGES]
    with torch.no_grad():
        answers = {text: {shape: ask(shape, output_dir, text) for shape in SHAPES} for text in texts}
    for text, by_shape in answers.items():
        print(f"  {text}")
        for shape, answer in by_shape.items():
            print(f"    {shape.upper()}  {answer}")
    (output_dir / "README.md").write_text(overview(summary, answers, output_dir), encoding="utf-8")
    print(
        f"\n{summary['seconds']:.0f} seconds. {output_dir / 'README.md'} leads to the cards and pages of the models."
    )


if __name__ == "__main__":
    sys.exit(main())
