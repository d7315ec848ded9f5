"""Each method of transformers that this package overrides is there, with the line that it replaces."""

import inspect
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import SLIDING
from test_generation import WAYS, generator, prompt_of
from transformers import Seq2SeqTrainer
from transformers.generation import GenerationMixin

import seqblend
from seqblend import BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM
from seqblend.modeling.cache import BlendGenerationMixin
from seqblend.training.trainer import BlendTrainer


class Seam(NamedTuple):
    """What an override relies on.

    Args:
        parameters: of the method in transformers, in their order, as far as the override uses them.
        where: the method of transformers that has the line.
        line: what is replaced, or calls the override; white space does not count.
    """

    parameters: str
    where: str
    line: str


# The most private methods of the Trainer that may be overridden.
MOST_PRIVATE = 7
TRAINER = {
    "__init__": Seam(
        "model args data_collator compute_metrics", "__init__", "self.model.generation_config = gen_config"
    ),
    "create_accelerator_and_postprocess": Seam("", "_hp_search_setup", "self.create_accelerator_and_postprocess()"),
    "train": Seam("resume_from_checkpoint trial", "train", "get_last_checkpoint(args.output_dir)"),
    "training_step": Seam(
        "model inputs", "_run_epoch", "self._tr_loss += self._tr_loss / (1 + self.state.global_step"
    ),
    "log": Seam("logs start_time", "log", 'speed_metrics("train", start_time, num_tokens=current_session_num_tokens)'),
    "get_train_dataloader": Seam("", "_get_dataloader", 'dataloader_params["drop_last"] = self.args.dataloader_drop'),
    "get_eval_dataloader": Seam("eval_dataset", "_get_eval_sampler", "return LengthGroupedSampler("),
    "get_test_dataloader": Seam("test_dataset", "get_test_dataloader", "sampler_fn=self._get_eval_sampler"),
    "get_batch_samples": Seam(
        "epoch_iterator", "_run_epoch", "skip_first_batches(train_dataloader, steps_trained_in_current_epoch)"
    ),
    "get_total_train_batch_size": Seam("args", "get_total_train_batch_size", "return self._train_batch_size *"),
    "load_generation_config": Seam("gen_config_arg", "load_generation_config", "GenerationConfig.from_pretrained("),
    "evaluation_loop": Seam(
        "dataloader description prediction_loss_only ignore_keys metric_key_prefix",
        "evaluation_loop",
        "losses.repeat(batch_size)",
    ),
    "prediction_step": Seam("model inputs", "prediction_step", "default_gen_config = gen_config"),
    "save_model": Seam("output_dir _internal_call", "_save", "torch.save(self.args, os.path.join(output_dir"),
    "save_state": Seam("", "save_state", "self.state.save_to_json(path)"),
    "save_metrics": Seam("split metrics combined", "save_metrics", "json.dump(all_metrics, f"),
    "init_hf_repo": Seam("token", "init_hf_repo", "self.args.hub_private_repo"),
    "create_model_card": Seam(
        "language license tags model_name finetuned_from dataset", "create_model_card", "TrainingSummary.from_trainer("
    ),
    "push_to_hub": Seam("commit_message blocking token revision", "push_to_hub", "upload_folder("),
    "call_model_init": Seam("trial", "__init__", "self.call_model_init()"),
    "_get_output_dir": Seam("trial", "_save_checkpoint", "output_dir = os.path.join(run_dir, checkpoint_folder)"),
    "_save_checkpoint": Seam("model trial", "_save_checkpoint", "rotate_checkpoints("),
    "_push_from_checkpoint": Seam("checkpoint_folder", "_save_checkpoint", "self._push_from_checkpoint(output_dir)"),
    "_init_training_state": Seam(
        "max_steps num_update_steps_per_epoch num_train_epochs resume_from_checkpoint trial",
        "_init_training_state",
        "epochs_trained = int(self.state.global_step // num_update_steps_per_epoch)",
    ),
    "_load_optimizer_and_scheduler": Seam(
        "checkpoint", "_prepare_for_training", "self._load_optimizer_and_scheduler(resume_from_checkpoint)"
    ),
    "_load_best_model": Seam("", "_load_best_model", "Could not locate the best model at"),
    "_prepare_for_training": Seam(
        "max_steps train_dataloader resume_from_checkpoint",
        "_prepare_for_training",
        "self.accelerator.prepare(self.model, self.optimizer)",
    ),
}
# Private names that are called, read or written, and not overridden.
USED = {
    "_tr_loss": Seam("", "_inner_training_loop", "self._tr_loss = torch.tensor(0.0, device=args.device)"),
    "_total_loss_scalar": Seam("", "_finalize_training", "self._total_loss_scalar += self._tr_loss.item()"),
    "_globalstep_last_logged": Seam(
        "", "_inner_training_loop", "self._globalstep_last_logged = self.state.global_step"
    ),
    "_train_batch_size": Seam("", "get_train_dataloader", "batch_size=self._train_batch_size"),
    "_created_lr_scheduler": Seam("", "_prepare_for_training", "if self._created_lr_scheduler:"),
    "_get_num_items_in_batch": Seam(
        "batch_samples device", "get_batch_samples", "self._get_num_items_in_batch(batch_samples, device)"
    ),
    "_loss_shifts_labels": Seam("", "_get_num_items_in_batch", "_loss_shifts_labels"),
    "_load_rng_state": Seam("checkpoint", "_run_epoch", "self._load_rng_state(resume_from_checkpoint)"),
    "_get_train_sampler": Seam("train_dataset", "get_train_dataloader", "sampler_fn=self._get_train_sampler"),
    "_finish_current_push": Seam("", "push_to_hub", "self._finish_current_push()"),
}
# Private methods that are not called: the public methods that call them are overridden.
NOT_CALLED = {
    "signature_columns": Seam(
        "", "_set_signature_columns_if_needed", "self._signature_columns = list(signature.parameters.keys())"
    ),
}
# Events of callbacks, and what they rely on: eval_on_start is read after on_train_begin, signals are acted on where a
# step is saved, and a tied weight that a checkpoint has once is reported.
EVENTS = {
    "eval_on_start": Seam(
        "", "_inner_training_loop", "on_train_begin(args, self.state, self.control) if args.eval_on"
    ),
    "on_save": Seam("trial", "_maybe_log_save_evaluate", "self.control = self.callback_handler.on_save("),
    "best": Seam("", "_maybe_log_save_evaluate", "if self.args.save_strategy == SaveStrategy.BEST:"),
    "missing": Seam("", "_issue_warnings_after_load", "There were missing keys in the checkpoint model loaded"),
}
GENERATION = {
    "generate": Seam("", "generate", "self._prepare_cache_for_generation("),
    "_prepare_cache_for_generation": Seam(
        "generation_config model_kwargs", "_prepare_cache_for_generation", "DynamicCache(**dynamic_cache_kwargs)"
    ),
    "_reorder_cache": Seam("", "_beam_search", "self._reorder_cache(model_kwargs[cache_key], beam_idx)"),
    "_prefill": Seam("input_ids generation_config model_kwargs", "_prefill", "self(**model_inputs"),
}
SEAMS = [
    *((Seq2SeqTrainer, name, seam) for name, seam in {**TRAINER, **USED, **NOT_CALLED, **EVENTS}.items()),
    *((GenerationMixin, name, seam) for name, seam in GENERATION.items()),
]


def overridden(ours: type, theirs: type) -> set[str]:
    """The names that the classes of this package in the MRO define, and that transformers' class has, too."""
    own = [each for each in ours.__mro__ if each.__module__.startswith("seqblend.")]
    return {name for each in own for name, value in vars(each).items() if callable(value) and hasattr(theirs, name)}


def source_of(theirs: type, name: str) -> str:
    """The source of a method of all classes in the MRO that define it, without white space."""
    methods = [vars(each)[name] for each in theirs.__mro__ if name in vars(each) and each is not object]
    return "".join("".join(inspect.getsource(each).split()) for each in methods)


@pytest.mark.parametrize("theirs, name, seam", SEAMS, ids=[name for _, name, _ in SEAMS])
def test_what_is_overridden_or_used_is_in_transformers(theirs, name, seam):
    assert hasattr(theirs, seam.where), f"{name}: transformers has no {seam.where} any more"
    assert "".join(seam.line.split()) in source_of(theirs, seam.where), f"{name}: {seam.where} has no {seam.line!r}"
    if wanted := seam.parameters.split():
        parameters = inspect.signature(getattr(theirs, seam.where if name in EVENTS else name)).parameters
        assert [each for each in parameters if each in wanted] == wanted, f"{name} has other parameters: {parameters}"


def test_every_override_is_known():
    names = overridden(BlendTrainer, Seq2SeqTrainer)
    assert names == set(TRAINER)
    private = {name for name in names if name.startswith("_") and name != "__init__"}
    assert len(private) <= MOST_PRIVATE, sorted(private)
    for name in private:
        assert "Not public" in inspect.getdoc(vars(BlendTrainer)[name]), f"{name} does not say why it is overridden"
    assert overridden(BlendGenerationMixin, GenerationMixin) | {"_reorder_cache"} == set(GENERATION)


def test_every_private_name_that_is_used_is_known():
    root, names = Path(seqblend.__file__).parent, set()
    for path in [*(root / "training").glob("*.py"), *(root / "checkpoints").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        names |= set(re.findall(r'trainer(?:\.|, ")(_[a-z]\w*)', text))
        names |= set(re.findall(r"(?:self|super\(.*\))\.(_[a-z]\w*)", text)) if path.stem == "trainer" else set()
    assert names - set(TRAINER) == set(USED)


PRIVATE = [name for name in GENERATION if name.startswith("_")]


@pytest.mark.parametrize("gone", [[each] for each in PRIVATE] + [PRIVATE], ids="-".join)
@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_is_right_where_a_private_method_is_gone(gone, model_class, cache, monkeypatch):
    """A model that was pushed meets later versions of transformers, which may not call what it overrides."""
    model = generator(model_class, **SLIDING)
    prompt = prompt_of(model_class)
    several = {"do_sample": True, "num_return_sequences": 2}
    ways = {"greedy": WAYS["greedy"], "beam-sampling": WAYS["beam-sampling"], "several": several}

    def written() -> dict[str, torch.Tensor]:
        found = {}
        for name, options in ways.items():
            torch.manual_seed(1)
            implementation = {"cache_implementation": cache} if cache == "static" else {}
            found[name] = model.generate(**prompt, max_new_tokens=8, **options, **implementation)
        return found

    expected = written()
    for name in gone:
        monkeypatch.delattr(BlendGenerationMixin, name)
    for name, tokens in written().items():
        assert torch.equal(tokens, expected[name]), name
