"""What the clients' own trainers are told in these tests, and the losses that they tell."""

from pathlib import Path
from typing import Any

# Texts, and others that mean the same.
PAIRS = {
    "anchor": ["a red apple", "the sea at night", "two old friends talk", "it rains in the north", "bread", "seven"],
    "positive": ["red apples", "night at the sea", "old friends who talk", "rain in the north", "some bread", "7"],
}


def arguments_of(kind: type, directory: Path, **options: Any) -> Any:
    """Arguments of a trainer that logs every step, and writes and shows nothing."""
    return kind(
        output_dir=str(directory),
        learning_rate=3e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )


def losses(trainer: Any) -> list[float]:
    """The loss of each step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
