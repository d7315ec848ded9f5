"""Attack the command line from outside, in processes of its own: `python tests/attacks.py [KIND [WORD …]]`.

A kind is `directories`, `changes` or `kills`; without one, all are tried. The second and third are of
tests/attacks_on_runs.py: what is changed under a resume, and runs that are killed at any moment.

Of directories, an attack is a saved model that somebody has changed before passing it on. Every command is pointed at
every one of them, with "yes" on its standard input for whoever asks. No code of the directory may run, no traceback
may be printed, a dry run may change nothing, and nothing from outside the directory may be listed for the Hub. With
words, only the attacks whose names hold one of them are tried. tests/test_security.py runs the same table without new
processes.

A new attack is a function in ATTACKS, a new command one in COMMANDS.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from attacks_on_runs import changes, kills

from seqblend import BlendEncoderConfig, BlendEncoderForSequenceClassification
from seqblend.hub_card.card import write_card
from seqblend.hub_card.verify import REFERENCE, write_reference
from seqblend.tokenization.training import train_tokenizer
from seqblend.version import __version__

# What code of a directory does when it runs: it leaves a file.
EVIL = "import pathlib\npathlib.Path({mark!r}).touch()\n"
# For whoever asks "Do you wish to run the custom code? [y/N]"; for predict they are two rows.
ANSWERS = "hello\n1\ny\nyes\n"
OUTSIDE = "somebody-elses-secret"


@dataclass(frozen=True)
class Outcome:
    """What came of a command on a directory.

    Args:
        code: its exit code.
        output: what it printed, errors too.
        ran: whether code of the directory ran.
        changed: whether a file of the directory is not what it was.
    """

    code: int
    output: str
    ran: bool
    changed: bool

    def faults(self) -> list[str]:
        """What should not have happened."""
        found = {
            "code ran": self.ran,
            "traceback": "Traceback" in self.output,
            "changed the directory": self.changed,
            "listed a file from outside": self.code == 0 and OUTSIDE in self.output,
            "refused by no exit code": self.code not in (0, 2),
        }
        return [name for name, wrong in found.items() if wrong]


# --- Directories ---


def make_model(directory: Path) -> None:
    """A whole saved model, with tokenizer, reference and card."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tokenizer = train_tokenizer(["hello 1 yes"], "char", 99)
    labels = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    model = BlendEncoderForSequenceClassification(BlendEncoderConfig(vocab_size=len(tokenizer), **sizes, **labels))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_reference(model, directory)
    write_card(directory, complete=False)


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file, which is made if need be."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def unknown_model_type(directory: Path, evil: str) -> None:
    (directory / "evil.py").write_text(evil)
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    edit(directory / "config.json", model_type="evil", auto_map=dict.fromkeys(names, "evil.Evil"))


def known_model_type(directory: Path, evil: str) -> None:
    (directory / "evil.py").write_text(evil)
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    name = "evil.BlendEncoderForSequenceClassification"
    edit(directory / "config.json", auto_map=dict.fromkeys(names, name))


def code_of_another_repository(directory: Path, evil: str) -> None:
    auto_map = json.loads((directory / "config.json").read_text())["auto_map"]
    auto_map = {name: f"someone/evil--{reference}" for name, reference in auto_map.items()}
    edit(directory / "config.json", auto_map=auto_map)


def poisoned_code(directory: Path, evil: str) -> None:
    path = directory / "modeling_layers.py"
    path.write_text(path.read_text() + evil)


def poisoned_code_of_an_older_version(directory: Path, evil: str) -> None:
    path = directory / "modeling_layers.py"
    path.write_text(path.read_text().replace(f"seqblend {__version__}", "seqblend 0.0.0", 1) + evil)


def code_that_imports_more(directory: Path, evil: str) -> None:
    (directory / f"{OUTSIDE}.py".replace("-", "_")).write_text(evil)
    path = directory / "modeling_layers.py"
    path.write_text(path.read_text() + f"\nfrom .{OUTSIDE.replace('-', '_')} import pathlib\n")


def tokenizer_with_code(directory: Path, evil: str) -> None:
    (directory / "evil.py").write_text(evil)
    auto_map = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    edit(directory / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Evil")


def tokenizer_in_the_config(directory: Path, evil: str) -> None:
    (directory / "evil.py").write_text(evil)
    (directory / "tokenizer_config.json").unlink()
    auto_map = json.loads((directory / "config.json").read_text())["auto_map"]
    edit(directory / "config.json", auto_map={**auto_map, "AutoTokenizer": ["evil.Evil", "evil.Evil"]})


def pipeline_with_code(directory: Path, evil: str) -> None:
    (directory / "evil.py").write_text(evil)
    task = {"impl": "evil.Evil", "pt": ["AutoModelForSequenceClassification"], "tf": []}
    edit(directory / "config.json", custom_pipelines={"text-classification": task})


def card_data_with_code(directory: Path, evil: str) -> None:
    """It ends the text that it is printed in, and goes on as code."""
    revision = f'main"}}\n{evil}{{"a": "'
    edit(directory / "all_results.json", card_data={"revision": revision, "example": "hello"})


def card_data_outside(directory: Path, evil: str) -> None:
    edit(directory / "all_results.json", card_data={"repo_id": f"../{OUTSIDE}", "nonsense": 1, "example": "hello"})


class Pickled:
    """Runs code where it is unpickled."""

    def __init__(self, code: str):
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


def pickled_weights(directory: Path, evil: str) -> None:
    (directory / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Pickled(evil)}, directory / "pytorch_model.bin")


def link_to_a_file(directory: Path, evil: str) -> None:
    outside = directory.parent / f"{OUTSIDE}.json"
    (directory / "tokenizer.json").rename(outside)
    (directory / "tokenizer.json").symlink_to(outside)
    for name in (f"tokenizer_{OUTSIDE}.json", f"{OUTSIDE}_vocab_id_rsa"):
        (directory / name).symlink_to(outside)


def link_to_a_folder(directory: Path, evil: str) -> None:
    (directory.parent / "private").mkdir(exist_ok=True)
    (directory.parent / "private" / "tags.png").write_text(OUTSIDE)
    (directory / "pictures").symlink_to(directory.parent / "private")


def link_to_where_is_written(directory: Path, evil: str) -> None:
    (directory / REFERENCE).unlink()
    for name in (REFERENCE, ".README.md.part"):
        (directory / name).symlink_to(directory.parent / f"written-{name}")


def names_that_look_right(directory: Path, evil: str) -> None:
    for name in (f"vocabulary of {OUTSIDE}.csv", f"tokenizer_{OUTSIDE}.json", f"{OUTSIDE}.model"):
        (directory / name).write_text(OUTSIDE)


def shards_outside(directory: Path, evil: str) -> None:
    (directory / "model.safetensors").rename(directory.parent / f"{OUTSIDE}.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": f"../{OUTSIDE}.safetensors"}}
    edit(directory / "model.safetensors.index.json", **index)


def config_of_another_kind(directory: Path, evil: str) -> None:
    edit(directory / "config.json", auto_map=["evil.Evil"], architectures="Evil", id2label=[1], hidden_size="evil")


def config_that_is_a_list(directory: Path, evil: str) -> None:
    (directory / "config.json").write_text("[1]")


def config_that_is_cut_off(directory: Path, evil: str) -> None:
    (directory / "config.json").write_bytes(b'{"model_type": "blend_encoder", "\xff')


def results_of_another_kind(directory: Path, evil: str) -> None:
    (directory / "all_results.json").write_text('["card_data"]')
    (directory / "trainer_state.json").write_text("7")
    (directory / "predictions.jsonl").write_text('{"input": 1}\n[]\n')


def tokenizer_that_is_none(directory: Path, evil: str) -> None:
    (directory / "tokenizer.json").write_text("{}")


def quantized_by_another(directory: Path, evil: str) -> None:
    edit(directory / "config.json", quantization_config={"quant_method": "evil"}, attn_implementation="evil/kernel")


ATTACKS: dict[str, Callable[[Path, str], None]] = {
    each.__name__.replace("_", " "): each
    for each in (
        unknown_model_type,
        known_model_type,
        code_of_another_repository,
        poisoned_code,
        poisoned_code_of_an_older_version,
        code_that_imports_more,
        tokenizer_with_code,
        tokenizer_in_the_config,
        pipeline_with_code,
        card_data_with_code,
        card_data_outside,
        pickled_weights,
        link_to_a_file,
        link_to_a_folder,
        link_to_where_is_written,
        names_that_look_right,
        shards_outside,
        config_of_another_kind,
        config_that_is_a_list,
        config_that_is_cut_off,
        results_of_another_kind,
        tokenizer_that_is_none,
        quantized_by_another,
    )
}


# --- Commands ---


def train(directory: Path, out: Path) -> list[str]:
    rows = out.parent / "rows.jsonl"
    rows.write_text('{"text": "hello", "label": "a"}\n{"text": "1", "label": "b"}\n')
    words = ["seqblend.train", "--task", "sequence-classification", "--train_file", str(rows), "--max_steps", "1"]
    return [*words, "--output_dir", str(out), "--use_cpu", "true", "--model_name_or_path", str(directory)]


def tokenize(directory: Path, out: Path) -> list[str]:
    *words, _, path = train(directory, out)
    sizes = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2"
    return [*words, "--tokenizer_name_or_path", path, "--config_overrides", sizes]


def predict(directory: Path, out: Path) -> list[str]:
    return ["seqblend.predict", str(directory), "--input", "-"]


def publish(directory: Path, out: Path) -> list[str]:
    return ["seqblend.hub_card.publish", str(directory), "--repo_id", "you/model", "--dry_run"]


VERIFY = """
import sys, seqblend
try:
    print(seqblend.verify(sys.argv[1]))
except ValueError as error:
    sys.exit(2)
"""


def verify(directory: Path, out: Path) -> list[str]:
    return ["-c", VERIFY, str(directory)]


COMMANDS = {each.__name__: each for each in (train, tokenize, predict, verify, publish)}


# --- The table ---


def in_a_process(words: list[str]) -> tuple[int, str]:
    """Exit code and output of a command."""
    command = [sys.executable, *(words if words[0] == "-c" else ["-m", *words])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        command, input=ANSWERS, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return done.returncode, done.stdout + done.stderr


def contents(directory: Path) -> dict[str, str]:
    """Every file of a directory, with the digest of what is in it; of a link, where it leads."""
    return {
        path.relative_to(directory).as_posix(): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def attack(
    name: str, command: str, model: Path, place: Path, run: Callable[[list[str]], tuple[int, str]] = in_a_process
) -> Outcome:
    """Point a command at a copy of a model that an attack has changed.

    Args:
        name: of the attack.
        command: its name.
        model: a whole saved model.
        place: an empty directory.
        run: a command to its exit code and output.
    """
    directory, mark = place / "model", place / "ran"
    shutil.copytree(model, directory)
    ATTACKS[name](directory, EVIL.format(mark=str(mark)))
    before = contents(directory)
    code, output = run(COMMANDS[command](directory, place / "out"))
    return Outcome(code, output, mark.exists(), contents(directory) != before)


def directories(words: list[str]) -> bool:
    """Print what came of every attack by every command; whether all were withstood."""
    names = [name for name in ATTACKS if not words or any(word in name for word in words)]
    withstood = True
    print(f"| attack | {' | '.join(COMMANDS)} |", "|---" * (len(COMMANDS) + 1) + "|", sep="\n")
    with tempfile.TemporaryDirectory() as root:
        make_model(Path(root, "saved"))
        for name in names:
            cells = []
            for command in COMMANDS:
                place = Path(root, name.replace(" ", "-"), command)
                place.mkdir(parents=True)
                outcome = attack(name, command, Path(root, "saved"), place)
                faults = outcome.faults()
                withstood = withstood and not faults
                cells.append(f"**{', '.join(faults)}**" if faults else "refused" if outcome.code else "harmless")
                if faults:
                    sys.stderr.write(f"--- {name}, {command}\n{outcome.output[-3000:]}\n")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return withstood


KINDS = {"directories": directories, "changes": changes, "kills": kills}


def main() -> int:
    """Print the tables; the exit code is 1 where an attack was not withstood, and 2 where a kind is unknown."""
    kind, *words = sys.argv[1:] or [""]
    if kind and kind not in KINDS:
        print(f"{kind}: is none of {', '.join(KINDS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    outcomes = [attempt(words) for name, attempt in KINDS.items() if name == (kind or name)]
    return int(not all(outcomes))


if __name__ == "__main__":
    sys.exit(main())
