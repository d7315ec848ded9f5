"""Run transformers' example scripts on directories that we saved, where the package is not installed.

    python tests/clients/run_examples.py SOURCES DATA --work DIRECTORY [--python PYTHON] [--only SCRIPT]

SOURCES is a source tree of transformers, of which the scripts are taken, and DATA a directory of data sets (clinc150,
wnut17, sigmorphon2021_g2p, tinyshakespeare). PYTHON has transformers and must not know seqblend. Each script's command
and what it measured are printed as Markdown; docs/clients.md has a table of it.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from transformers import set_seed

from seqblend import (
    BlendDecoderConfig,
    BlendDecoderForCausalLM,
    BlendEncoderConfig,
    BlendEncoderDecoderConfig,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForMaskedLM,
)
from seqblend.tokenization.training import train_tokenizer

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
STEPS = "--max_steps 300 --learning_rate 3e-3 --per_device_train_batch_size 16 --per_device_eval_batch_size 16"
COMMON = f"--trust_remote_code --do_train --do_eval {STEPS} --logging_steps 50 --report_to none --use_cpu --seed 0"

# Directory of the script, script, the directory of ours it starts from, and its own flags.
JOBS = [
    (
        "language-modeling/run_mlm.py",
        "encoder",
        "--train_file shakespeare.train.txt --validation_file shakespeare.validation.txt --max_seq_length 64 "
        "--max_train_samples 2000 --max_eval_samples 100",
    ),
    (
        "text-classification/run_glue.py",
        "run_mlm",
        "--train_file clinc.train.json --validation_file clinc.validation.json --max_seq_length 32",
    ),
    (
        "text-classification/run_classification.py",
        "encoder",
        "--train_file clinc.train.json --validation_file clinc.validation.json --max_seq_length 32 "
        "--text_column_names text --label_column_name label --metric_name accuracy",
    ),
    (
        "token-classification/run_ner.py",
        "encoder",
        "--train_file wnut.train.json --validation_file wnut.validation.json --max_seq_length 64",
    ),
    (
        "language-modeling/run_clm.py",
        "decoder",
        "--train_file shakespeare.train.txt --validation_file shakespeare.validation.txt --block_size 64 "
        "--max_train_samples 2000 --max_eval_samples 100",
    ),
    (
        "translation/run_translation.py",
        "encoder_decoder",
        "--train_file g2p.train.json --validation_file g2p.validation.json --source_lang ko --target_lang ipa "
        "--predict_with_generate --max_source_length 32 --max_target_length 64 --num_beams 2",
    ),
]


def rows_of(path: Path, every: int = 1) -> list[dict]:
    """Rows of a .jsonl file, evenly chosen."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[::every]]


def write_json(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_data(data: Path, work: Path) -> None:
    """Files that the scripts take, made from ours."""
    for split in ("train", "validation"):
        write_json(work / f"clinc.{split}.json", rows_of(data / "clinc150" / f"{split}.jsonl", 7))
        write_json(work / f"wnut.{split}.json", rows_of(data / "wnut17" / f"{split}.jsonl", 3))
        pairs = rows_of(data / "sigmorphon2021_g2p" / "kor" / f"{split}.jsonl")[: 2000 if split == "train" else 100]
        translations = [{"translation": {"ko": pair["source"], "ipa": pair["target"]}} for pair in pairs]
        write_json(work / f"g2p.{split}.json", translations)
        shutil.copy(data / "tinyshakespeare" / f"{split}.txt", work / f"shakespeare.{split}.txt")


def write_metrics(work: Path) -> None:
    """Where evaluate.load("name") looks before it asks the network."""
    for script in Path(__file__).with_name("metrics").glob("*.py"):
        (work / script.stem).mkdir(exist_ok=True)
        shutil.copy(script, work / script.stem)


def write_models(data: Path, work: Path) -> None:
    """Untrained models with trained tokenizers, saved as the package saves them."""
    english = [row["text"] for row in rows_of(data / "clinc150" / "train.jsonl")]
    english.append((data / "tinyshakespeare" / "train.txt").read_text(encoding="utf-8"))
    english += [word for row in rows_of(data / "wnut17" / "train.jsonl") for word in row["tokens"]]
    korean = [text for row in rows_of(data / "sigmorphon2021_g2p" / "kor" / "train.jsonl") for text in row.values()]
    models = {
        "encoder": (BlendEncoderForMaskedLM, BlendEncoderConfig, (english, "byte-bpe", 2000, None, True), {}),
        "decoder": (BlendDecoderForCausalLM, BlendDecoderConfig, (english, "byte-bpe", 2000, None, False), {}),
        "encoder_decoder": (
            BlendEncoderDecoderForSeq2SeqLM,
            BlendEncoderDecoderConfig,
            (korean, "char", 2000, "nfd", True),
            # The script's labels begin with [CLS]: the decoder starts from another token.
            {"decoder_start_token_id": IDS["pad_token_id"]},
        ),
    }
    for name, (model_class, config_class, trained, options) in models.items():
        *texts_and_type, closes = trained
        tokenizer = train_tokenizer(*texts_and_type, adds_special_tokens=closes)
        tokenizer.model_max_length = SIZES["max_position_embeddings"]
        config = config_class.from_recipe(vocab_size=len(tokenizer), **SIZES, **IDS, **options)
        set_seed(0)
        model_class(config).save_pretrained(work / name)
        tokenizer.save_pretrained(work / name)


def in_lines(command: str) -> str:
    """A command in lines that a page shows whole; a flag and its value stay together."""
    words = command.replace(" --", "\n--").split("\n")
    lines = [words[0]]
    for word in words[1:]:
        if len(f"{lines[-1]} {word}") <= 94:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return " \\\n".join(lines)


def run(script: str, start: str, flags: str, sources: Path, python: str, work: Path) -> str:
    """Run a script to its end; its command, and what it measured, as Markdown.

    Raises:
        SystemExit: it failed.
    """
    name = Path(script).stem
    arguments = shlex.split(f"--model_name_or_path {start} --output_dir {name} {COMMON} {flags}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "home")}
    command = [python, str(sources / "examples" / "pytorch" / script), *arguments]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    (work / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{name} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    results = json.loads((work / name / "all_results.json").read_text())
    history = json.loads((work / name / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    metrics = {key: round(value, 4) for key, value in results.items() if key.startswith("eval_") and of_model(key)}
    return (
        f"```bash\n{in_lines(f'python {script} {shlex.join(arguments)}')}\n```\n\n"
        f"Loss from {losses[0]:.3f}, the mean of the first 50 steps, to {losses[-1]:.3f}, of the last 50; "
        f"{json.dumps(metrics)}\n"
    )


def of_model(metric: str) -> bool:
    """Whether it tells of the model, and not of the machine or the set."""
    return not metric.endswith(("_runtime", "_per_second", "_samples"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that does not know seqblend")
    parser.add_argument("--work", type=Path, required=True, help="where everything is written")
    parser.add_argument("--only", help="the one script to run, without .py")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    known = subprocess.run([given.python, "-c", "import seqblend"], cwd=work, env={}, capture_output=True, check=False)
    if not known.returncode:
        sys.exit(f"{given.python} knows seqblend: the scripts would not open the saved code")
    write_data(given.data, work)
    write_metrics(work)
    write_models(given.data, work)
    for script, start, flags in JOBS:
        if given.only in (None, Path(script).stem):
            print(run(script, start, flags, given.sources.resolve(), given.python, work), flush=True)


if __name__ == "__main__":
    main()
