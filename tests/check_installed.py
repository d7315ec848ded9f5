"""Train and ask a small model with the package that is installed: `python -I tests/check_installed.py`.

It is for an environment that has the package and what it requires, and nothing else; nothing is imported from here.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import seqblend

COMMAND = Path(sys.executable).with_name("seqblend")
TEXTS = {"good": ["very good", "well done", "quite good"], "bad": ["very bad", "badly done", "quite bad"]}
OPTIONS = {
    "--task": "sequence-classification",
    "--train_file": "train.jsonl",
    "--validation_file": "train.jsonl",
    "--config_overrides": "hidden_size=32,num_hidden_layers=1",
    "--num_train_epochs": "20",
    "--learning_rate": "5e-3",
    "--output_dir": "run",
}


def run(directory: Path, *words: str) -> str:
    """The output of a command of the package. Raises CalledProcessError if it fails."""
    done = subprocess.run([COMMAND, *words], cwd=directory, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def main() -> None:
    """Train, ask, explore and check a push, in a directory of its own; an AssertionError says what is wrong."""
    assert Path(seqblend.__file__).is_relative_to(sys.prefix), seqblend.__file__
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        rows = [{"text": text, "label": label} for label, texts in TEXTS.items() for text in texts] * 4
        (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run(directory, "train", *(word for option in OPTIONS.items() for word in option))
        answers = run(directory, "predict", "run", "--text", "very good", "quite bad").splitlines()
        assert [json.loads(answer)["prediction"] for answer in answers] == ["good", "bad"], answers
        run(directory, "explore", "run", "--text", "very good", "--output", "page.html")
        page = (directory / "page.html").read_text(encoding="utf-8")
        assert "Content-Security-Policy" in page and '"good"' in page
        # The code that is saved with the model is run without the package.
        assert "model.safetensors" in run(directory, "publish", "run", "--repo_id", "you/run", "--dry_run")
        card = (directory / "run/README.md").read_text(encoding="utf-8")
        assert "Accuracy" in card and (directory / "run/pictures").is_dir()
        print(f"seqblend {seqblend.__version__} trains, answers, explores and checks a push in {sys.prefix}")


if __name__ == "__main__":
    main()
