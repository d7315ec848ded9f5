"""Hold saved directories to what they say, where other versions of the dependencies open them.

`python tests/check_versions.py save DIR` saves tiny models of every class, recipe and kind of layer, and a tokenizer
of every kind. `python tests/check_versions.py open DIR`, with other versions, opens each with the package and without
it, and compares what it says with what it said. `make test-oldest` and `make test-newest` do both, from the tested
versions to those and back.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import BASES, HEADS, SLIDING, tiny_model
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, __version__

from seqblend import FAMILIES, verify
from seqblend.configuration.recipes import RECIPES
from seqblend.hub_card.verify import verify_isolated, write_reference
from seqblend.tokenization.kinds import TOKENIZER_TYPES
from seqblend.tokenization.training import train_tokenizer

TEXTS = ["What if we blended the elements of a sequence?", "2031년 3월 6일 목요일", "naïve  spaces, 0.5 & <tags>"]
# Beside a tokenizer: what it made of the texts.
ENCODED = "encoded.json"


def make_models() -> dict[str, PreTrainedModel]:
    """A model of every class, and of the one that writes tokens every recipe and one with windows, by their names."""
    made = {model_class.__name__: tiny_model(model_class) for model_class in BASES + HEADS}
    for config_class, models in FAMILIES.items():
        _, writer, *_ = models.values()
        made[f"{writer.__name__}-sliding"] = tiny_model(writer, **SLIDING)
        recipes = {name for name, parts in RECIPES.items() if config_class.model_type in parts} - {"default"}
        for recipe in recipes:
            made[f"{writer.__name__}-{recipe}"] = tiny_model(writer, name=recipe)
    return made


def encode(tokenizer: PreTrainedTokenizerBase) -> list:
    """What a tokenizer makes of the texts, there and back."""
    encoded = [tokenizer(text)["input_ids"] for text in TEXTS]
    return [encoded, tokenizer.batch_decode(encoded, skip_special_tokens=True)]


def save(root: Path) -> str:
    """Save models and tokenizers, with what they say beside them; a line that counts them."""
    models = make_models()
    for name, model in models.items():
        model.save_pretrained(root / "models" / name)
        write_reference(model, root / "models" / name)
    for kind in TOKENIZER_TYPES:
        tokenizer = train_tokenizer(TEXTS, kind, vocab_size=300)
        tokenizer.save_pretrained(root / "tokenizers" / kind)
        (root / "tokenizers" / kind / ENCODED).write_text(json.dumps(encode(tokenizer)))
    return f"transformers {__version__} saved {len(models)} models, {len(TOKENIZER_TYPES)} tokenizers"


def open_all(root: Path) -> str:
    """Open what `save` saved; a line that counts it, with the largest error relative to an output's deviation.

    Raises:
        ValueError: see verify and verify_isolated; or a tokenizer says something else.
    """
    directories = sorted(Path(root, "models").iterdir())
    versions = {json.loads((each / "config.json").read_text())["transformers_version"] for each in directories}
    with ThreadPoolExecutor(2) as pool:
        without_package = [each for opened in pool.map(verify_isolated, directories) for each in opened.values()]
    with_package = [verify(directory) for directory in directories]
    error = max(error for errors in without_package + with_package for error in errors.values())
    tokenizers = sorted(Path(root, "tokenizers").iterdir())
    for directory in tokenizers:
        if encode(AutoTokenizer.from_pretrained(directory)) != json.loads((directory / ENCODED).read_text()):
            raise ValueError(f"{directory}: the tokenizer makes something else of the texts")
    return (
        f"transformers {__version__} opened of {', '.join(versions)}: {len(with_package)} models with the package, in "
        f"{len(without_package)} heads without it, largest error {error:.1e}; {len(tokenizers)} tokenizers, equal"
    )


if __name__ == "__main__":
    print({"save": save, "open": open_all}[sys.argv[1]](Path(sys.argv[2])))
