"""Whether a saved model still says what it said: reference.safetensors holds inputs and the outputs they had.

The same checks run in three places: `verify` where seqblend is installed; this file as a script,
`python verify.py DIR`, for which seqblend does not exist; and by anyone who reads the tensors.
"""

import json
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
from transformers import PreTrainedModel

REFERENCE = "reference.safetensors"
LENGTHS = (7, 4, 1)
# What a process of its own is told of the environment: how to find and run Python, and nothing of the user's.
KEPT = (
    *("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT"),
    *("TMPDIR", "TEMP", "TMP", "LANG", "LC_ALL", "LC_CTYPE", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    "TOKENIZERS_PARALLELISM",
)
# How far outputs may be off on other hardware, relative to their standard deviation, by the dtype of the weights.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-1}


def reference_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Three sequences of uneven length, of tokens drawn by a fixed seed: they tell nothing of anybody's data."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1] * length + [0] * (max(LENGTHS) - length) for length in LENGTHS])

    def tokens(vocab_size: int) -> torch.Tensor:
        return torch.randint(vocab_size, mask.shape, generator=generator) * mask

    size, writes = model.get_input_embeddings().num_embeddings, model.get_output_embeddings() is not None
    if not model.config.is_encoder_decoder:
        return {"input_ids": tokens(size), "attention_mask": mask}
    if writes:
        return {
            "input_ids": tokens(size),
            "attention_mask": mask,
            "decoder_input_ids": tokens(model.config.vocab_size),
        }
    # The decoder reads the source too.
    return {"input_ids": tokens(min(size, model.config.vocab_size)), "attention_mask": mask}


def outputs_of(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a model and, where that is another one, its base model say: `logits` and `last_hidden_state`, on the CPU.

    The last state of a model with a head is that of its base model, so that every head of the family can be checked.
    """
    training = model.training
    model.eval()
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    try:
        with torch.no_grad():
            outputs = {"last_hidden_state": model.base_model(**inputs).last_hidden_state}
            if model.base_model is not model:
                outputs["logits"] = model(**inputs).logits
    finally:
        model.train(training)
    return {name: tensor.cpu().contiguous() for name, tensor in outputs.items()}


def write_reference(model: PreTrainedModel, directory: str | Path) -> Path:
    """Write inputs and what the model says to them into a directory.

    Args:
        model: in whatever mode; it is left as it was.
        directory: where to write; the model is saved there too.

    Returns:
        The file.
    """
    inputs = reference_inputs(model)
    metadata = {"format": "pt", "architecture": type(model).__name__, "torch": torch.__version__}
    path = Path(directory, REFERENCE)
    safetensors.torch.save_file({**inputs, **outputs_of(model, inputs)}, path, metadata)
    return path


def read_reference(directory: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The inputs and the outputs that write_reference wrote.

    Raises:
        ValueError: there is no such file.
    """
    path = Path(directory, REFERENCE)
    if not path.exists():
        raise ValueError(f"{path}: no such file; without it there is nothing to compare with")
    tensors = safetensors.torch.load_file(path)
    outputs = {name: tensors.pop(name) for name in ("last_hidden_state", "logits") if name in tensors}
    return tensors, outputs


def errors_of(model: PreTrainedModel, inputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict:
    """The largest difference of each output, relative to its standard deviation; 0.0 where they are bitwise equal.

    Raises:
        ValueError: an output has another shape, or differs by more than TOLERANCE.
    """
    errors = {}
    for name, output in outputs_of(model, inputs).items():
        if name not in expected:
            continue
        wanted = expected[name]
        if output.shape != wanted.shape:
            raise ValueError(f"{name} has shape {tuple(output.shape)}, the reference {tuple(wanted.shape)}")
        difference = (output.double() - wanted.double()).abs().max().item()
        errors[name] = difference / max(wanted.double().std().item(), 1e-12) if difference else 0.0
        if not errors[name] <= TOLERANCE.get(model.dtype, 1e-4):
            raise ValueError(
                f"{name} differs from the reference by {errors[name]:.1e} of its standard deviation; if the model was "
                f"changed on purpose, delete {REFERENCE}"
            )
    return errors


def verify(repo_or_dir: str | Path, revision: str | None = None, token: str | None = None) -> dict[str, float]:
    """Check that a model says what it said when it was published.

    Args:
        repo_or_dir: a directory, or a repository of the Hub.
        revision: of the repository: a branch, a tag or a commit.
        token: for a private repository; None: the one that is logged in.

    Returns:
        For each output (`last_hidden_state`, `logits`) the largest difference, relative to the output's standard
        deviation; 0.0 where they are bitwise equal.

    Raises:
        ValueError: there is no reference.safetensors, or the outputs differ by more than rounding.
    """
    directory = repo_or_dir
    if not Path(repo_or_dir).is_dir():
        # What a run resumes from may be larger than the model.
        directory = snapshot_download(
            str(repo_or_dir), revision=revision, token=token, ignore_patterns=["*checkpoint*/*"]
        )
    inputs, expected = read_reference(directory)
    return errors_of(open_saved(directory), inputs, expected)


def open_saved(directory: str | Path) -> PreTrainedModel:
    """The model that is saved in a directory, in the class that it was saved in; no code of the directory runs.

    Raises:
        ValueError: it does not open.
    """
    auto_class = head_class(directory)
    try:
        return auto_class.from_pretrained(directory, trust_remote_code=False, use_safetensors=True)
    except Exception as error:  # transformers raises whatever it meets
        raise ValueError(f"{directory} does not open ({type(error).__name__}: {error})") from error


def head_class(directory: str | Path) -> Any:
    """The Auto class that opens a saved model in the class that it was saved in.

    Raises:
        ValueError: config.json is not there, or names no code for that class.
    """
    path = Path(directory, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        saved, auto_map = config["architectures"][0], config["auto_map"]
        names = [name for name in auto_map if name.startswith("AutoModel") and auto_map[name].endswith(f".{saved}")]
        return getattr(transformers, names[0])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = "no model of seqblend is saved there; save it by save_pretrained"
        raise ValueError(f"{directory}: {reason}") from error


# --- In a process of its own, for which seqblend does not exist ---


class Hidden:
    """An import hook that knows of no seqblend."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "seqblend":
            raise ModuleNotFoundError(name)


def without_package(arguments: list[str], directory: Path, code: str | None = None) -> subprocess.CompletedProcess:
    """Run this file as a script, offline, with an empty cache of modules, and without the user's environment.

    Code of a saved model runs there. It cannot read the user's tokens from the environment, nor finds those that are
    logged in where it looks for them; it is no sandbox, and may read what the user may read.

    Args:
        arguments: of the script.
        directory: where it runs.
        code: its standard input.
    """
    with tempfile.TemporaryDirectory() as home:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment = {**kept, "HOME": home, "USERPROFILE": home, "HF_HOME": home, "HF_MODULES_CACHE": home}
        # Packages that are installed for the user alone are found from their home.
        environment["PYTHONUSERBASE"] = site.getuserbase()
        environment |= {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
        # On the CPU: the GPU may be full of what is being trained.
        environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, str(Path(__file__).absolute()), *arguments]
        return subprocess.run(
            command, cwd=directory, env=environment, input=code, capture_output=True, encoding="utf-8", check=False
        )


def open_everywhere(directory: Path) -> dict[str, dict[str, float]]:
    """Open a directory in every Auto class of its family, where seqblend is not installed.

    Returns:
        For each Auto class the outputs that could be compared with the reference, and how much they differ.

    Raises:
        ValueError: one does not open, a tensor of the base model is missing, or an output differs.
    """
    done = without_package([str(Path(directory).absolute())], Path(directory))
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ValueError(f"{directory} does not open where seqblend is not installed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def open_each(directory: str) -> dict[str, dict[str, float]]:
    """The part of open_everywhere that runs in the other process."""
    inputs, expected = read_reference(directory)
    if Path(directory, "tokenizer_config.json").exists():
        transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=True)
    saved, errors = head_class(directory).__name__, {}
    for name in sorted(set(config.auto_map) - {"AutoConfig"}):
        model, report = getattr(transformers, name).from_pretrained(
            directory, trust_remote_code=True, output_loading_info=True
        )
        of_base = model.base_model.state_dict()
        prefix = "" if name == "AutoModel" else f"{model.base_model_prefix}."
        if missing := sorted(set(report["missing_keys"]) & {prefix + key for key in of_base}):
            raise ValueError(f"{name}: missing are {', '.join(missing)}")
        of_all = {"last_hidden_state": expected["last_hidden_state"]}
        errors[name] = errors_of(model, inputs, expected if name == saved else of_all)
    return errors


def main() -> None:
    """`verify.py DIR` opens a directory in every Auto class; `verify.py -` runs the code of standard input."""
    # Neither the package, nor its files beside this one.
    sys.meta_path.insert(0, Hidden())
    sys.path.pop(0)
    if sys.argv[1] == "-":
        exec(compile(sys.stdin.read(), "usage", "exec"), {"__name__": "__main__"})
    else:
        print(json.dumps(open_each(sys.argv[1])))


if __name__ == "__main__":
    main()
