"""Write docs/conformance.md from the results of transformers' own classes and ours: `python report.py DIRECTORY`."""

import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

# Our test class; beside it the name of theirs, its test class, and the file of it.
PAIRS = {
    "TestEncoder": ("BERT", "BertModelTest", "bert"),
    "TestDecoder": ("GPT-2", "GPT2ModelTest", "gpt2"),
    "TestEncoderDecoder": ("BART", "BartModelTest", "bart"),
}

HEAD = """# Conformance

transformers' own common tests, run on our classes and on the most similar classes of transformers. They show in which
ways our models behave like those of transformers. `make conformance TRANSFORMERS=PATH` runs both and writes this page.
Tests are counted by name, without subtests.

| ours | passed | failed | skipped | theirs | passed | failed | skipped |
|---|--:|--:|--:|---|--:|--:|--:|"""

# Why tests do not pass for ours that a class has which the tests of several models inherit.
OF_COMMON_CLASSES = {
    "GenerationTesterMixin": "a test of `GenerationTesterMixin`, for classes that have `generate`. BERT has one, for "
    "BERT as a decoder; our encoders have none",
    "CausalLMModelTest": "a test of `CausalLMModelTest` for question answering, a head that our models do not have",
}
# Why tests that stand in a model's own file are not ours, and which of our own say the same of our models.
OF_THEIR_FILES = {
    "BERT as a decoder; ours is another class, which has its own tests": (
        "test_for_causal_lm",
        "test_for_causal_lm_decoder",
        "test_model_as_decoder",
        "test_model_as_decoder_with_default_input_mask",
    ),
    "a head that our models do not have": (
        "test_for_multiple_choice",
        "test_for_next_sequence_prediction",
        "test_for_pretraining",
        "test_for_question_answering",
        "test_gpt2_double_lm_head_model",
    ),
    "an option that only GPT-2 has": (
        "test_gpt2_reorder_and_upcast_attn",
        "test_gpt2_scale_attn_by_inverse_layer_idx",
        "test_gpt2_sdpa_matches_eager_with_scaling_configs",
    ),
    "shapes; our tests are `test_output_shapes` and `test_output_shapes_without_a_head`": (
        "test_for_masked_lm",
        "test_for_sequence_classification",
        "test_for_token_classification",
        "test_model",
    ),
    "a decoder's cache; our test is `test_cached_equals_uncached`": ("test_decoder_model_past_with_large_inputs",),
    "padding of the source; our test is `test_padding_changes_nothing`": (
        "test_cross_attention_respects_encoder_padding_mask",
    ),
    "saved parts; our test is `test_parts_may_be_saved_alone`": ("test_encoder_decoder_model_standalone",),
    "half precision; our test is `test_generation_in_half_precision`": ("test_generate_fp16",),
    "hooks; our test is `test_embeddings_are_called`": ("test_input_embeddings_support_forward_hook",),
    "resizing; our test is `test_embeddings_are_resized`": ("test_resize_embeddings_persists_embeddings_type",),
    "saving; our test is `test_saved_and_loaded`": ("test_save_load_strict",),
}


def results(path: Path, test_class: str) -> dict[str, tuple[str, str]]:
    """Of each test of a class, by name: `passed`, `skipped` or `failed`, and the reason."""
    found: dict[str, tuple[str, str]] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        name, outcomes = case.get("name", ""), {each.tag: each.get("message", "") for each in case}
        if case.get("classname", "").split(".")[-1] != test_class or found.get(name, ("",))[0] == "failed":
            continue
        if "failure" in outcomes or "error" in outcomes:
            found[name] = ("failed", outcomes.get("failure", outcomes.get("error", "")))
        else:
            found[name] = ("skipped", outcomes["skipped"]) if "skipped" in outcomes else ("passed", "")
    return found


def counted(found: dict[str, tuple[str, str]]) -> str:
    counts = Counter(outcome for outcome, _ in found.values())
    return " | ".join(str(counts[outcome]) for outcome in ("passed", "failed", "skipped"))


def reason(name: str, test_class: type) -> str:
    """Why a test that passes for `test_class`, theirs, does not for ours.

    Raises:
        ValueError: that is not known: it may be a test that can be inherited, or a sample that can be mended.
    """
    # ModelTesterMixin.__init_subclass__ wraps every test anew for each class: the last has it first.
    owner = [each for each in test_class.__mro__ if name in vars(each)][-1]
    if owner is test_class:
        known = {each: why for why, names in OF_THEIR_FILES.items() for each in names}
        if name in known:
            return f"a test of their model's own file: {known[name]}"
    elif owner.__name__ in OF_COMMON_CLASSES:
        return OF_COMMON_CLASSES[owner.__name__]
    raise ValueError(f"{name} of {owner.__name__} passes for theirs and not for ours, and nothing here says why")


def missed(ours: dict[str, tuple[str, str]], theirs: dict[str, tuple[str, str]], test_class: type) -> list[str]:
    """Lines for the tests that pass for theirs and not for ours: each reason, and below it the names."""
    found: dict[str, list[str]] = {}
    for name, (outcome, _) in sorted(theirs.items()):
        if outcome == "passed" and ours.get(name, ("not there", ""))[0] != "passed":
            found.setdefault(reason(name, test_class), []).append(f"- `{name}`")
    return [line for why, names in found.items() for line in (f"\n{why[0].upper()}{why[1:]}.\n", *names)]


def main() -> None:
    directory = Path(sys.argv[1])
    rows, sections = [], []
    for test_class, (name, their_class, file) in PAIRS.items():
        ours, theirs = results(directory / "ours.xml", test_class), results(directory / f"{file}.xml", their_class)
        rows.append(f"| `{test_class}` | {counted(ours)} | {name} | {counted(theirs)} |")
        module = import_module(f"tests.models.{file}.test_modeling_{file}")
        sections.append(f"\n## Passes for {name} and not for `{test_class}`")
        sections += missed(ours, theirs, getattr(module, their_class))
    print("\n".join([HEAD, *rows, *sections]))


if __name__ == "__main__":
    main()
