"""The card of `model.push_to_hub`: replaces the stub that transformers writes."""

from pathlib import Path

from huggingface_hub import ModelCard

# The placeholder in the cards of transformers.utils.hub.create_and_tag_model_card.
STUB = "[More Information Needed]"


def replace_stub(directory: Path, repo_id: str) -> None:
    """Replace the stub in a directory by a card made from the configuration; any other card is left unchanged."""
    path = directory / "README.md"
    if path.exists() and STUB not in path.read_text(encoding="utf-8"):
        return
    # Imported here, because only a push needs the packages of the card.
    from .card import CardData, write_card

    tags = ModelCard.load(path).data.tags if path.exists() else None
    write_card(directory, CardData(repo_id=repo_id, tags=tags or None), complete=False)
