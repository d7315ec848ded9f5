"""Options of LoRA that are refused in one line before anything is written, also where peft is not installed."""

import sys

import pytest
from test_train_command import (
    CLASSIFY,
    ROWS,
    assert_refused,
    files,
    from_model,
    model_of,  # noqa: F401
    plain_cards,  # noqa: F401
    quick_and_quiet,  # noqa: F401
)

from seqblend.data.errors import InputError
from seqblend.training.arguments import BlendTrainingArguments, ModelArguments
from seqblend.training.checks import check_lora

HUB = {"push_to_hub": True, "hub_model_id": "you/model"}
WITHOUT_EFFECT = [
    ({"lora_alpha": 8}, "lora_alpha: has no effect without --lora_rank"),
    ({"lora_target": ["q_proj"]}, "lora_target: has no effect without --lora_rank"),
    ({"merge_adapter": True}, "merge_adapter: has no effect without --lora_rank"),
]
SAVED = {"lora_rank": 4, "model_name_or_path": "saved"}
CONTRADICTIONS = [
    ({"lora_rank": 4}, "lora_rank: needs model_name_or_path; .* a recipe are random"),
    ({"lora_rank": 4, "encoder_name_or_path": "e"}, "needs model_name_or_path; .* encoder_name_or_path are random"),
    ({**SAVED, **HUB}, "push_to_hub: adapters are not pushed; add --merge_adapter true to push the whole model"),
    (
        {**SAVED, **HUB, "merge_adapter": True, "hub_strategy": "checkpoint"},
        "hub_strategy: checkpoint pushes checkpoints, but with lora_rank .*; use end",
    ),
]


@pytest.mark.parametrize("options, words", [*WITHOUT_EFFECT, *CONTRADICTIONS], ids=lambda value: str(value)[:40])
def test_options_that_do_not_go_together(options, words, tmp_path):
    of_model = {name: value for name, value in options.items() if hasattr(ModelArguments, name)}
    of_run = {name: value for name, value in options.items() if name not in of_model}
    with pytest.raises(InputError, match=words) as refusal:
        check_lora(ModelArguments(**of_model), BlendTrainingArguments(str(tmp_path), use_cpu=True, **of_run))
    assert "\n" not in str(refusal.value)


def test_without_peft_the_line_says_how_to_install_it(model_of, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setitem(sys.modules, "peft", None)
    given = from_model(model_of(CLASSIFY), **files(tmp_path, ROWS[CLASSIFY]), lora_rank=4)
    assert_refused(tmp_path, given, ["lora_rank: needs peft", "pip install 'peft>=0.21'"], capsys)


def test_without_lora_peft_is_not_imported(model_of, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "peft", None)
    model = ModelArguments(model_name_or_path=str(model_of(CLASSIFY)))
    check_lora(model, BlendTrainingArguments(str(tmp_path), use_cpu=True))
