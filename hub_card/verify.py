"""Verification that a saved model gives its recorded outputs: reference.safetensors holds inputs and outputs.

`verify` checks a model where seqblend is installed. As a script, `python verify.py DIR`, this file checks it with the
code in the directory, as if seqblend were not installed. `python verify.py DIR AUTO_CLASS` checks a model in an
original format with transformers alone, without any code of the directory.
"""

import json
import logging
import os
import site
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import transformers
from huggingface_hub import snapshot_download
from transformers import GenerationConfig, PreTrainedModel

logger = logging.getLogger(__name__)
REFERENCE = "reference.safetensors"
LENGTHS = (7, 4, 1)
# Environment variables that the isolated process gets: only those needed to find and run Python.
ENVIRONMENT = (
    *("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT"),
    *("TMPDIR", "TEMP", "TMP", "LANG", "LC_ALL", "LC_CTYPE", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    "TOKENIZERS_PARALLELISM",
)
# The largest allowed difference of outputs, relative to their standard deviation, for each dtype of the weights.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-1}


def reference_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Inputs of the reference: sequences of different lengths, of random tokens with a fixed seed.

    They look like those of a tokenizer, because stock models read tokens where ours read the mask: padding consists of
    padding tokens, special tokens occur nowhere else, and the source of an encoder-decoder ends with the end token.
    """
    generator = torch.Generator().manual_seed(0)
    config, size = model.config, model.get_input_embeddings().num_embeddings
    has_lm_head = model.get_output_embeddings() is not None
    padding, end = config.pad_token_id, first_id(config.eos_token_id)
    # Stock decoders classify no batch without a padding token.
    is_converted = getattr(config, "original_model_type", None) is not None
    is_single = is_converted and padding is None and not has_lm_head
    lengths = LENGTHS[:1] if is_single else LENGTHS
    mask = torch.tensor([[1] * length + [0] * (max(lengths) - length) for length in lengths])
    special = {padding, end, first_id(config.bos_token_id)}

    def tokens(vocab_size: int) -> torch.Tensor:
        ordinary = torch.tensor([each for each in range(vocab_size) if each not in special] or [0])
        drawn = ordinary[torch.randint(len(ordinary), mask.shape, generator=generator)]
        return drawn.masked_fill(mask == 0, padding or 0)

    if not config.is_encoder_decoder:
        return {"input_ids": tokens(size), "attention_mask": mask}
    # Without decoder inputs, the decoder reads the source as well, so its vocabulary is a limit too.
    inputs = {"input_ids": tokens(size if has_lm_head else min(size, config.vocab_size)), "attention_mask": mask}
    if end is not None:
        inputs["input_ids"][torch.arange(len(mask)), mask.sum(1) - 1] = end
    return inputs | ({"decoder_input_ids": tokens(config.vocab_size)} if has_lm_head else {})


def first_id(token: int | list[int] | None) -> int | None:
    """A token's id; of several end tokens the first."""
    return token[0] if isinstance(token, list) else token


def compute_outputs(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of a model on the CPU: `last_hidden_state` of its base model and, if it has a head, `logits`.

    With `last_hidden_state`, all other heads of the family can be checked as well. T5ForConditionalGeneration of
    transformers, which has no base model, gives `logits` only.
    """
    training = model.training
    model.eval()
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    try:
        with torch.no_grad():
            base = model.base_model(**inputs)
            outputs = {name: base[name] for name in ("last_hidden_state", "logits") if name in base}
            if model.base_model is not model:
                outputs["logits"] = model(**inputs).logits
    finally:
        model.train(training)
    return {name: tensor.cpu().contiguous() for name, tensor in outputs.items()}


def write_reference(model: PreTrainedModel, directory: str | Path) -> Path:
    """Write inputs and the outputs of a model into a directory.

    Args:
        model: in training or evaluation mode, which is restored afterwards.
        directory: where to write; the directory of the saved model.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written; an earlier one stays.
    """
    inputs = reference_inputs(model)
    metadata = {"format": "pt", "architecture": type(model).__name__, "torch": torch.__version__}
    path = Path(directory, REFERENCE)
    part = path.with_name(f".{REFERENCE}.part")
    # With save_file, a full disk is an error of safetensors, not an OSError.
    part.write_bytes(safetensors.torch.save({**inputs, **compute_outputs(model, inputs)}, metadata))
    part.replace(path)
    return path


def read_reference(directory: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The inputs and the outputs in reference.safetensors.

    Raises:
        ValueError: there is no such file, it cannot be read, or it has no inputs or no outputs.
    """
    path = Path(directory, REFERENCE)
    if not path.exists():
        raise ValueError(f"{path}: no such file; seqblend publish writes it, and outputs are compared with it")
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); delete it to write it again") from error
    if missing := {"input_ids", "attention_mask", "last_hidden_state"} - tensors.keys():
        raise ValueError(f"{path}: has no {' and no '.join(sorted(missing))}; delete it to write it again")
    outputs = {name: tensors.pop(name) for name in ("last_hidden_state", "logits") if name in tensors}
    return tensors, outputs


def compare_outputs(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    hint: str = f"if you changed the model on purpose, delete {REFERENCE}",
) -> dict[str, float]:
    """The largest difference of each output, relative to its standard deviation; 0.0 if it is bitwise equal.

    Args:
        model: the model.
        inputs: of the reference.
        expected: the outputs in the reference.
        hint: the end of the message about a difference.

    Raises:
        ValueError: an output has another shape, or differs by more than TOLERANCE.
    """
    errors = {}
    for name, output in compute_outputs(model, inputs).items():
        if name not in expected:
            continue
        reference = expected[name]
        if output.shape != reference.shape:
            raise ValueError(f"{name} has shape {tuple(output.shape)}, the reference {tuple(reference.shape)}")
        difference = real_values(output.double() - reference.double(), inputs).abs().max().item()
        # A single number has no standard deviation.
        scale = (reference.double().std() if reference.numel() > 1 else reference.double().abs().max()).item()
        errors[name] = difference / max(scale, 1e-12) if difference else 0.0
        if not errors[name] <= TOLERANCE.get(model.dtype, 1e-4):
            raise ValueError(
                f"{name} differs from the reference by {errors[name]:.1e} of its standard deviation; {hint}"
            )
    return errors


def real_values(output: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """An output with zeros at padding, where stock models compute values without meaning, even NaN."""
    mask = inputs["attention_mask"] == 0
    is_of_tokens = output.dim() == 3 and output.shape[:2] == mask.shape and "decoder_input_ids" not in inputs
    return output.masked_fill(mask[..., None], 0.0) if is_of_tokens else output


def check_generation(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """Check that `generate` computes, with its cache, the logits that a forward of the whole text gives.

    Args:
        model: in evaluation mode; a model that does not generate is not checked. Its generation_config is replaced.
        inputs: of the reference.

    Raises:
        ValueError: the logits differ by more than TOLERANCE in the quadratic mean: the code of the model does not fit
            the installed transformers.
    """
    if not model.can_generate():
        return
    name = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    # The first row has no padding. There may be no position for a longer text.
    prompt = {"input_ids": inputs["input_ids"][:1], name: inputs[name][:1, :3]}
    model.generation_config = GenerationConfig(
        max_new_tokens=3,
        decoder_start_token_id=int(prompt[name][0, 0]),
        return_dict_in_generate=True,
        output_logits=True,
    )
    with torch.no_grad():
        written = model.generate(**prompt)
        logits = torch.stack(written.logits, 1)
        whole = model(**{**prompt, name: written.sequences[:, :-1]}, use_cache=False).logits[:, -logits.shape[1] :]
    # The mean, because the largest difference of many logits in half precision is large. generate() returns float32.
    difference, scale = (logits - whole).float().square().mean().sqrt().item(), whole.float().std(correction=0).item()
    error = difference / max(scale, 1e-12)
    if not error <= max(TOLERANCE.get(model.dtype, 0.0), TOLERANCE[torch.float32]):
        raise ValueError(
            f"generate() computes other logits than one forward of the same text, by {error:.1e} of their standard "
            f"deviation: the code of the model does not fit transformers {transformers.__version__}"
        )


def verify(repo_or_dir: str | Path, revision: str | None = None, token: str | None = None) -> dict[str, float]:
    """Check that a model gives the outputs that it gave when it was published, and that it generates what they say.

    A model in an original format is loaded by transformers alone; its outputs are compared with those of seqblend.

    Args:
        repo_or_dir: a directory, or a repository of the Hub.
        revision: of the repository: a branch, a tag or a commit.
        token: for a private repository; None: the token of `hf auth login`.

    Returns:
        For each output (`last_hidden_state`, `logits`) the largest difference, relative to the output's standard
        deviation; 0.0 if it is bitwise equal.

    Raises:
        ValueError: there is no reference.safetensors, or the outputs differ by more than rounding; see
            check_generation; or the directory of a model in an original format holds code, which it does not need.
    """
    # As a script, this file has no package.
    from ..conversion.reading import quiet
    from ..version import __version__
    from .provenance import check_code, older_version
    from .saved import original_auto_class

    directory = repo_or_dir
    if not Path(repo_or_dir).is_dir():
        # Checkpoints for resuming are not needed, and may be larger than the model.
        directory = snapshot_download(
            str(repo_or_dir), revision=revision, token=token, ignore_patterns=["*checkpoint*/*"]
        )
    if (auto_class := original_auto_class(directory)) is not None:
        check_code(Path(directory))
        with quiet():
            return verify_original(str(directory), auto_class)
    if (version := older_version(Path(directory))) is not None:
        logger.warning(
            "%s: the code is of seqblend %s and runs where seqblend is not installed, perhaps not with the newest "
            "transformers; seqblend publish, or loading and saving the model, replaces it by that of %s",
            repo_or_dir,
            version,
            __version__,
        )
    inputs, expected = read_reference(directory)
    model = load_saved(directory)
    errors = compare_outputs(model, inputs, expected)
    check_generation(model, inputs)
    return errors


def verify_original(directory: str, auto_class: str) -> dict[str, float]:
    """Compare the outputs of a model in an original format, as transformers computes them, with the reference.

    The reference is that of the model of seqblend, in float32.

    Args:
        directory: of the model.
        auto_class: the name of the Auto class.

    Raises:
        ValueError: the model or its tokenizer cannot be loaded, or an output differs; see read_reference.
    """
    inputs, expected = read_reference(directory)
    if Path(directory, "tokenizer_config.json").exists():
        load_without_code(transformers.AutoTokenizer, directory)
    options = {"dtype": torch.float32, "use_safetensors": True}
    model = load_without_code(getattr(transformers, auto_class), directory, **options)
    return compare_outputs(model, inputs, expected, "its files are not those that were written together")


def load_saved(directory: str | Path) -> PreTrainedModel:
    """Load the model in a directory, in the class in which it was saved, without running code of the directory.

    Raises:
        ValueError: the model cannot be loaded.
    """
    return load_without_code(find_auto_class(directory), directory, use_safetensors=True)


def load_without_code(auto_class: Any, directory: str | Path, **options: Any) -> Any:
    """What an Auto class loads from a directory. Raises ValueError if it cannot be loaded, or needs its own code."""
    try:
        return auto_class.from_pretrained(directory, trust_remote_code=False, **options)
    except Exception as error:  # from_pretrained of transformers raises errors of any class for damaged files
        raise ValueError(f"{directory} cannot be loaded ({type(error).__name__}: {error})") from error


def find_auto_class(directory: str | Path) -> Any:
    """The Auto class that loads a saved model in the class in which it was saved.

    Raises:
        ValueError: config.json is missing, or its auto_map does not have that class.
    """
    path = Path(directory, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        saved, auto_map = config["architectures"][0], config["auto_map"]
        names = [name for name in auto_map if name.startswith("AutoModel") and auto_map[name].endswith(f".{saved}")]
        return getattr(transformers, names[0])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = "no model of seqblend is saved there; save it with save_pretrained"
        raise ValueError(f"{directory}: {reason}") from error


# --- In an isolated process, as if seqblend were not installed ---


class HideSeqblend:
    """An import hook for which seqblend is not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "seqblend":
            raise ModuleNotFoundError(name)


def run_isolated(arguments: list[str], directory: Path, code: str | None = None) -> subprocess.CompletedProcess:
    """Run this file as a script, offline, with an empty cache of modules, and without the user's environment.

    The script runs the code of a saved model. The process has neither the user's environment variables nor the home
    directory with the token of `hf auth login`. It is not a sandbox: it can read every file that the user can read.

    Args:
        arguments: of the script.
        directory: the working directory.
        code: the standard input.
    """
    with tempfile.TemporaryDirectory() as home:
        inherited = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment = {**inherited, "HOME": home, "USERPROFILE": home, "HF_HOME": home, "HF_MODULES_CACHE": home}
        # Python looks for packages of `pip install --user` in the home directory.
        environment["PYTHONUSERBASE"] = site.getuserbase()
        environment |= {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
        # On the CPU, because a training may use all memory of the GPU.
        environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, str(Path(__file__).absolute()), *arguments]
        return subprocess.run(
            command, cwd=directory, env=environment, input=code, capture_output=True, encoding="utf-8", check=False
        )


def verify_isolated(directory: Path) -> dict[str, dict[str, float]]:
    """Load a saved model in an isolated process, and compare the outputs.

    A model of this package is loaded in every Auto class of its family, one in an original format in its own.

    Returns:
        For each Auto class the largest difference of each output that the reference has, see compare_outputs.

    Raises:
        ValueError: a class cannot be loaded, a tensor of the base model is missing, or an output differs; see
            check_generation.
    """
    # As a script, this file has no package.
    from .saved import original_auto_class

    auto_class = original_auto_class(directory)
    arguments = [str(Path(directory).absolute()), *([] if auto_class is None else [auto_class])]
    done = run_isolated(arguments, Path(directory))
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["the process ended without a message"])[-1]
        raise ValueError(f"{directory} cannot be loaded without seqblend: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def verify_auto_classes(directory: str) -> dict[str, dict[str, float]]:
    """The part of verify_isolated that runs in the isolated process."""
    inputs, expected = read_reference(directory)
    if Path(directory, "tokenizer_config.json").exists():
        transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=True)
    saved, errors = find_auto_class(directory).__name__, {}
    for name in sorted(set(config.auto_map) - {"AutoConfig"}):
        # Two heads may have a hidden layer of the same name and of another shape, as those of ALBERT.
        model, report = getattr(transformers, name).from_pretrained(
            directory, trust_remote_code=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
        prefix = "" if name == "AutoModel" else f"{model.base_model_prefix}."
        new = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
        if missing := sorted(new & {prefix + key for key in model.base_model.state_dict()}):
            raise ValueError(f"{name}: missing tensors: {', '.join(missing)}")
        # The logits of other heads are new: they have no reference.
        base_outputs = {"last_hidden_state": expected["last_hidden_state"]}
        errors[name] = compare_outputs(model, inputs, expected if name == saved else base_outputs)
        if name == saved:
            check_generation(model, inputs)
    return errors


def main() -> None:
    """`verify.py DIR [AUTO_CLASS]` loads a directory; `verify.py -` runs the code from standard input."""
    # Neither the installed package nor the files beside this one can be imported.
    sys.meta_path.insert(0, HideSeqblend())
    sys.path.pop(0)
    if sys.argv[1] == "-":
        exec(compile(sys.stdin.read(), "usage", "exec"), {"__name__": "__main__"})
    elif len(sys.argv) > 2:
        directory, auto_class = sys.argv[1:]
        print(json.dumps({auto_class: verify_original(directory, auto_class)}))
    else:
        print(json.dumps(verify_auto_classes(sys.argv[1])))


if __name__ == "__main__":
    main()
