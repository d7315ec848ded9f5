"""The card of `model.push_to_hub`, in place of the stub that transformers writes."""

from pathlib import Path

from huggingface_hub import ModelCard

# What transformers.utils.hub.create_and_tag_model_card writes where it knows nothing.
STUB = "[More Information Needed]"


def replace_stub(directory: Path, repo_id: str) -> None:
    """Put a card that the configuration tells in place of the one that push_to_hub writes where there is none."""
    path = directory / "README.md"
    if path.exists() and STUB not in path.read_text(encoding="utf-8"):
        return
    # Only who pushes needs the card's packages.
    from .card import Given, write_card

    tags = ModelCard.load(path).data.tags if path.exists() else None
    write_card(directory, Given(repo_id=repo_id, tags=tags or None), complete=False)
