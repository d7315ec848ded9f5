"""A run in its original format: what is in its directory, what it says where seqblend is not, its card, its push."""

import contextlib
import io
import json
import logging
import os
import re
import shutil
import statistics
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import transformers
import yaml
from conftest import forked_processes, run_without_package, tiny_model
from huggingface_hub import HfApi
from original_runs import CASES, make_run, predictions_of
from stock import auto, stock_model
from transformers import Seq2SeqTrainingArguments

import seqblend
from seqblend import BlendEncoderForSequenceClassification, ConversionError
from seqblend.data.errors import InputError
from seqblend.data.writing import atomic_directory
from seqblend.hub_card import card as card_module
from seqblend.hub_card import original as original_module
from seqblend.hub_card import publish as publishing
from seqblend.hub_card.card import CardData, hub_names, write_card
from seqblend.hub_card.contents import PublishError, repository_files
from seqblend.hub_card.original import write_original
from seqblend.hub_card.publish import Destination, main, publish
from seqblend.hub_card.saved import original_auto_class
from seqblend.hub_card.verify import REFERENCE, reference_inputs, run_isolated, verify_isolated, verify_original
from seqblend.train import base_model_facts
from seqblend.training.arguments import DataArguments, ModelArguments
from seqblend.training.command_line import card_facts
from seqblend.training.trainer import BlendTrainer

every_case = pytest.mark.parametrize("name", CASES)
CONFIG, WEIGHTS = "config.json", "model.safetensors"
FILES = {CONFIG, WEIGHTS, REFERENCE, "README.md", "tokenizer.json", "tokenizer_config.json"}
FILES |= {"pictures/learning_curves.png", "pictures/blending.png", "explore.html"}
# Of some kinds of heads besides.
CONFUSION, GENERATION = "pictures/confusion.png", "generation_config.json"
SCORES = "pictures/labels.png"
MORE = {
    "one-label": {CONFUSION, SCORES},
    "several-labels": {SCORES},
    "pairs": {CONFUSION, SCORES},
    "last-token": {CONFUSION, SCORES, GENERATION},
    "last-end": {CONFUSION, SCORES, GENERATION},
    "tags": {"pictures/tags.png"},
    "translation": {"pictures/lengths.png", GENERATION},
    "translation-t5": {"pictures/lengths.png", GENERATION},
    "continuation": {GENERATION},
}


def files_in(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", card, re.DOTALL | re.MULTILINE)


class Runs(dict):
    """The run of every case, written in its original format when it is first asked for.

    One is checked in processes without the package.
    """

    def __init__(self, factory):
        self.factory = factory

    def __missing__(self, name):
        run = self[name] = make_run(CASES[name], self.factory.mktemp(name))
        with forked_processes() if name == TRULY else in_this_process():
            assert write_original(run, CardData(repo_id=f"you/{name}")) == run / "original"
        return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory)


@pytest.fixture
def run(runs, tmp_path):
    """A copy of a run, to be changed."""
    return shutil.copytree(runs["one-label"], tmp_path / "run")


# The case for which processes are started.
TRULY = "one-label"


@contextlib.contextmanager
def in_this_process():
    """Where processes would be started, outputs are compared and code is run in this one, which takes less time."""

    def verify_here(directory):
        verify_original(str(directory), original_auto_class(directory))

    def run_here(code, repo_id, directory):
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()) as output:
            link = Path(temporary, repo_id)
            link.parent.mkdir()
            link.symlink_to(directory, target_is_directory=True)
            os.chdir(temporary)
            try:
                exec(compile(code, "usage", "exec"), {"__name__": "__main__"})
            finally:
                os.chdir(before)
        return output.getvalue().rstrip("\n")

    with pytest.MonkeyPatch.context() as patch:
        for module in (original_module, publishing):
            patch.setattr(module, "verify_isolated", verify_here)
        patch.setattr(card_module, "run_usage", run_here)
        yield


@pytest.fixture
def unopened():
    with in_this_process():
        yield


# --- What is written ---


@every_case
def test_there_are_the_files_of_a_repository_and_no_others(name, runs):
    """No file of the run, no code, and no word of code."""
    directory = runs[name] / "original"
    assert files_in(directory) == FILES | MORE.get(name, set()) == set(repository_files(directory))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (directory / file).read_bytes() == (runs[name].parent / "source" / file).read_bytes()
    for file in directory.rglob("*.*"):
        content = file.read_bytes() if file.is_file() else b""
        assert b"trust_remote_code" not in content and b"auto_map" not in content, file
    assert not [path for path in runs[name].iterdir() if path.name.startswith(".")]


ASK = """
import json
import torch, transformers

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()

def say(model, tokenizer, inputs):
    if type(model).__name__.endswith("ConditionalGeneration"):
        written = model.generate(**tokenizer(inputs, return_tensors="pt"))
        return tokenizer.decode(written[0], skip_special_tokens=True)
    if type(model).__name__.endswith("TokenClassification"):
        batch = tokenizer([inputs], is_split_into_words=True, return_tensors="pt")
        best, words = model(**batch).logits[0].argmax(-1).tolist(), batch.word_ids()
        return [model.config.id2label[best[words.index(index)]] for index in range(len(inputs))]
    texts = inputs if isinstance(inputs, list) else [inputs]
    logits = model(**tokenizer(*texts, return_tensors="pt")).logits[0]
    if model.config.problem_type == "regression":
        return logits.item()
    if model.config.problem_type == "multi_label_classification":
        return [model.config.id2label[index] for index in range(len(logits)) if logits[index] > 0]
    return model.config.id2label[logits.argmax().item()]

answers = {}
for name, directory, auto_class, options, rows in json.load(sys.stdin):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **options)
    model = getattr(transformers, auto_class).from_pretrained(directory)
    assert type(model).__module__.startswith("transformers.models."), type(model)
    with torch.no_grad():
        answers[name] = [say(model.eval(), tokenizer, row) for row in rows]
print(json.dumps(answers))
"""


def test_transformers_alone_predicts_every_row_as_the_run_did(runs, tmp_path):
    """Where importing seqblend fails; compared with predictions.jsonl."""
    asked = []
    for name in CASES:
        run = runs[name]
        if rows := predictions_of(run):
            options = {"add_prefix_space": True} if name == "tags" else {}
            inputs = [row["input"] for row in rows]
            asked.append((name, str(run / "original"), CASES[name].head, options, inputs))
    done = run_without_package(ASK, asked, tmp_path)
    answers = json.loads(done.stdout.splitlines()[-1])
    assert len(answers) == 9
    for name, said in answers.items():
        expected = [row["prediction"] for row in predictions_of(runs[name])]
        if name == "number":
            assert said == pytest.approx(expected, rel=0, abs=1e-5 * statistics.stdev(expected))
        else:
            assert said == expected, name
    # Where all answers are the same, little is tested.
    assert not [name for name, said in answers.items() if len(set(map(str, said))) == 1]


@every_case
def test_the_card_says_what_was_measured(name, runs):
    run = runs[name]
    card = (run / "original" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "transformers" and front["license"] == "mit" and front["tags"] == ["seqblend"]
    (code,), outputs = blocks(card, "python"), re.findall(r"It prints:\n\n```text\n(.*?)```", card, re.DOTALL)
    assert f"{CASES[name].head}.from_pretrained(repository)\n" in code and f'repository = "you/{name}"' in code
    assert ("AutoTokenizer.from_pretrained(repository, add_prefix_space=True)" in code) == (name == "tags")
    assert len(outputs) == 1
    stock = json.loads((run / "original" / CONFIG).read_text())["architectures"][0]
    assert f"| class | `{stock}` |" in card and f"the format of `{stock}` of transformers" in card
    tested = "it gives the predictions of the run" in card
    assert (
        tested == (name not in ("translation", "translation-t5", "continuation", "masked"))
        and "differ from" not in card
    )
    for said in ("| test | 8 | Loss | 0.5000 |", "| `learning_rate` | 5e-05 |", "(pictures/learning_curves.png)"):
        assert said in card
    size = sum(each.numel() for each in safetensors.torch.load_file(run / "original" / WEIGHTS).values())
    assert f"| parameters | {size:,} |" in card


def test_the_code_on_the_card_prints_what_stands_below_it(runs, forked, tmp_path):
    """Of every card, run once more where seqblend is not; and the words' card prints the tags of the run."""
    (tmp_path / "you").mkdir()
    script, expected = "", {}
    for name in CASES:
        run = runs[name]
        (tmp_path / "you" / name).symlink_to(run / "original")
        card = (run / "original" / "README.md").read_text()
        (code,), (output,) = blocks(card, "python"), re.findall(r"It prints:\n\n```text\n(.*?)```", card, re.DOTALL)
        script += f"print('===', {name!r})\n{code}"
        expected[name] = output.rstrip("\n")
    done = run_isolated(["-"], tmp_path, script)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = dict(part.strip(" ").split("\n", 1) for part in done.stdout.split("===")[1:])
    assert {name: output.rstrip("\n") for name, output in printed.items()} == expected
    row = predictions_of(runs["tags"])[0]
    tagged = [(word, tag) for word, tag in zip(row["input"], row["prediction"], strict=True) if tag != "O"]
    assert [tuple(line.split()[:2]) for line in expected["tags"].splitlines()] == tagged and tagged


def test_the_reference_is_of_our_model(runs):
    """Not of the model that it is compared with."""
    for name in ("one-label", "translation"):
        ours = auto(CASES[name].head).from_pretrained(runs[name]).eval()
        written = safetensors.torch.load_file(runs[name] / "original" / REFERENCE)
        inputs = reference_inputs(ours)
        with torch.no_grad():
            assert torch.equal(ours(**inputs).logits, written["logits"])
        assert all(torch.equal(written[key], value) for key, value in inputs.items())


def test_inputs_of_the_reference_are_like_texts(runs):
    """Stock models look for padding and end tokens; a classifier without a padding token reads one row."""
    bart = auto("AutoModelForSequenceClassification").from_pretrained(runs["last-end"])
    inputs = reference_inputs(bart)
    assert inputs.keys() == {"input_ids", "attention_mask"}
    assert ((inputs["input_ids"] == 1) == (inputs["attention_mask"] == 0)).all()
    assert (inputs["input_ids"] == 2).sum(1).tolist() == [1, 1, 1]
    assert inputs["input_ids"][0, -1] == inputs["input_ids"][1, 3] == inputs["input_ids"][2, 0] == 2
    llama = auto("AutoModelForSequenceClassification").from_pretrained(runs["last-token"])
    assert len(reference_inputs(llama)["input_ids"]) == 3
    llama.config.pad_token_id = None
    assert len(reference_inputs(llama)["input_ids"]) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_another_precision_is_compared_in_float32(dtype, run, unopened, tmp_path):
    """In half precision, outputs of different programs are too different to find a wrong weight."""
    stock_model("bert", "AutoModelForSequenceClassification", dtype).save_pretrained(tmp_path / "source")
    shutil.rmtree(run)
    head = auto("AutoModelForSequenceClassification")
    seqblend.from_original(tmp_path / "source", head, dtype=dtype).save_pretrained(run)
    weights = safetensors.torch.load_file(write_original(run) / WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    errors = seqblend.verify(run / "original")
    assert errors.keys() == {"last_hidden_state", "logits"} and max(errors.values()) < 1e-5


def test_a_run_of_our_trainer(runs, tmp_path, forked):
    """Trained in between; several shards do not hurt."""
    source = runs["one-label"].parent / "source"
    model = seqblend.from_original(source, auto("AutoModelForSequenceClassification"), **CASES["one-label"].options)
    rows = [{"input_ids": [0, 5 + index, 9, 2], "labels": index % 3} for index in range(12)]
    options = {"max_steps": 5, "learning_rate": 1e-2, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    trainer = BlendTrainer(
        scorers={},
        model=model,
        args=Seq2SeqTrainingArguments(tmp_path / "run", save_strategy="no", **options),
        train_dataset=rows,
        processing_class=transformers.AutoTokenizer.from_pretrained(source),
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    target = write_original(tmp_path / "run", CardData(example="a text"))
    card = (target / "README.md").read_text()
    assert "| epochs, steps | 2.5, 5 |" in card and "| `max_steps` | 5 |" in card and "'label':" in card
    stock = auto("AutoModelForSequenceClassification").from_pretrained(target).eval()
    batch = {"input_ids": torch.tensor([[0, 7, 9, 2]]), "attention_mask": torch.ones(1, 4)}
    with torch.no_grad():
        assert torch.allclose(stock(**batch).logits, trainer.model.eval()(**batch).logits, atol=1e-5)


def test_a_checkpoint_without_a_tokenizer_gets_that_of_the_run(run, unopened):
    """As one in GGUF, whose tokenizer is in the weights' file."""
    origin = run / "original_files" / "origin.json"
    edit(origin, files=[name for name in json.loads(origin.read_text())["files"] if "token" not in name])
    target = write_original(run)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (target / name).read_bytes() == (run / name).read_bytes()
    assert "it gives the predictions of the run" in (target / "README.md").read_text()


def test_transformers_classifies_a_batch_where_the_original_has_no_padding_token(runs, unopened, tmp_path):
    """As that of GPT-2; the other settings of the tokenizer stay."""
    run = shutil.copytree(runs["last-token"], tmp_path / "run")
    settings = run / "original_files" / "file-tokenizer_config.json"
    content = json.loads(settings.read_text())
    padding = content.pop("pad_token")
    settings.write_text(json.dumps(content))
    edit(run / "original_files" / CONFIG, pad_token_id=None)
    target = write_original(run)
    assert json.loads((target / "tokenizer_config.json").read_text()) == {**content, "pad_token": padding}
    rows = predictions_of(run)
    answers = transformers.pipeline("text-classification", str(target), batch_size=4)([row["input"] for row in rows])
    assert [answer["label"] for answer in answers] == [row["prediction"] for row in rows]


# --- Nothing, or all of it ---


def test_a_difference_is_refused_and_what_was_there_stays(run, unopened, monkeypatch):
    before = {name: (run / "original" / name).read_bytes() for name in files_in(run / "original")}
    convert = original_module.to_original

    def spoil(model, stage):
        convert(model, stage)
        weights = safetensors.torch.load_file(stage / WEIGHTS)
        weights["classifier.bias"] += 0.01
        safetensors.torch.save_file(weights, stage / WEIGHTS, {"format": "pt"})

    monkeypatch.setattr(original_module, "to_original", spoil)
    with pytest.raises(ConversionError, match=r"logits differs from the reference by .*original was not written"):
        write_original(run)
    assert {name: (run / "original" / name).read_bytes() for name in files_in(run / "original")} == before
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_what_was_not_converted_or_cannot_go_back_is_refused(run, unopened, tmp_path):
    tiny_model(BlendEncoderForSequenceClassification).save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match=r"was not converted from another architecture"):
        write_original(tmp_path / "ours")
    assert files_in(tmp_path / "ours") and not (tmp_path / "ours" / "original").exists()
    edit(run / CONFIG, pooling="mean")
    shutil.rmtree(run / "original")
    with pytest.raises(ConversionError, match=r"cannot express pooling='mean'; .*original was not written"):
        write_original(run)
    assert not (run / "original").exists()


def write_and_be_killed(target: Path, rename_number: int) -> int:
    """Replace a directory in a process of its own, killed at a rename. Returns the exit code."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count, rename = iter(range(1, 9)), Path.rename
    Path.rename = lambda path, to: os._exit(9) if next(count) == rename_number else rename(path, to)
    with atomic_directory(target) as stage:
        (stage / "new").write_text("")
    os._exit(0)


@pytest.mark.parametrize("rename_number", [1, 2])
def test_a_killed_process_leaves_no_half_directory(rename_number, tmp_path):
    """At each rename; the next call brings back what was there before, and keeps it if it fails itself."""
    target = tmp_path / "d"
    target.mkdir()
    (target / "old").write_text("")
    assert write_and_be_killed(target, rename_number) == 9
    assert not target.exists() or files_in(target) == {"old"}
    with pytest.raises(KeyError), atomic_directory(target):
        assert files_in(target) == {"old"}
        raise KeyError
    assert files_in(tmp_path) == {"d/old"}
    assert write_and_be_killed(target, 3) == 0
    assert files_in(tmp_path) == {"d/new"}


def test_directories_above_stay_only_with_what_was_written(tmp_path):
    """Those that were there stay; a link to a directory stays a link."""
    (tmp_path / "there").mkdir()
    for place in ("there/new/d", "new/d"):
        with pytest.raises(KeyError), atomic_directory(tmp_path / place) as stage:
            (stage / "file").write_text("")
            raise KeyError
    assert [*tmp_path.rglob("*")] == [tmp_path / "there"]
    (tmp_path / "link").symlink_to(tmp_path / "there" / "new" / "d", target_is_directory=True)
    with atomic_directory(tmp_path / "link") as stage:
        (stage / "file").write_text("")
    assert files_in(tmp_path) == {"there/new/d/file"} and (tmp_path / "link").is_symlink()


def test_files_of_the_user_are_not_lost(run, unopened):
    """A file that is none of ours is named; a card that somebody wrote stays."""
    (run / "original" / "notes.txt").write_text("mine")
    with pytest.raises(ConversionError, match=r"original holds notes\.txt, which would be lost"):
        write_original(run)
    (run / "original" / "notes.txt").unlink()
    (run / "original" / "README.md").write_text("# Mine\n")
    write_original(run)
    assert (run / "original" / "README.md").read_text() == "# Mine\n"


def test_code_that_the_original_named_is_not_named_again(run, unopened, caplog):
    """transformers' class is used instead; a module of sentence-transformers that needs code is refused."""
    edit(run / "original_files" / CONFIG, auto_map={"AutoModel": "evil.Model"})
    kept = run / "original_files" / "file-tokenizer_config.json"
    edit(kept, auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    with caplog.at_level(logging.WARNING, logger="seqblend"):
        target = write_original(run)
    assert not [name for name in (CONFIG, "tokenizer_config.json") if "auto_map" in (target / name).read_text()]
    assert "config.json: dropped: auto_map" in caplog.text
    for name, where in (("auto_map", CONFIG), ("auto_map", "tokenizer_config.json")):
        edit(target / where, **{name: {"AutoModel": "evil.Model"}})
        with pytest.raises(ValueError, match=rf"{where} names .*evil\.Model.*needs no code"):
            seqblend.verify(target)


# --- What is pushed ---


@pytest.fixture
def original(run):
    return run / "original"


def test_a_push_is_one_commit_that_verifies(hub, forked, original, tmp_path):
    """Truly opened before it is sent, and by plain transformers after."""
    publish(original, Destination("someone/model"), "Upload")
    repo = hub.repos["someone/model"]
    titles = [commit.title for commit in repo.commits("main")]
    assert titles.count("Upload") == 1 and len(titles) == 2  # the first one creates the repository
    files = repo.files("main")
    assert {name: files[name] for name in files if name != ".gitattributes"} == {
        name: (original / name).read_bytes() for name in files_in(original)
    }
    errors = seqblend.verify("someone/model")
    assert errors.keys() == {"last_hidden_state", "logits"} and max(errors.values()) < 1e-5
    model = auto("AutoModelForSequenceClassification").from_pretrained("someone/model")
    assert type(model) is transformers.BertForSequenceClassification


def test_files_of_earlier_pushes_do_not_stay(hub, unopened, run, original):
    """Ours with its code, shards, another tokenizer, pickles, an adapter; but for what somebody else put there."""
    publish_ours(hub, run)
    stale = ("vocab.txt", "pytorch_model.bin", "model-00001-of-00009.safetensors", "adapter_config.json")
    for name in ("notes.md", *stale, "adapter_model.safetensors", "adapter_model.bin"):
        HfApi().upload_file(path_or_fileobj=b"theirs", path_in_repo=name, repo_id="someone/model")
    publish(original, Destination("someone/model"))
    repo = hub.repos["someone/model"]
    assert set(repo.files("main")) - {".gitattributes"} == files_in(original) | {"notes.md"}
    stock = auto("AutoModelForSequenceClassification").from_pretrained(original)
    (original / WEIGHTS).unlink()
    stock.save_pretrained(original, max_shard_size="20KB")
    publish(original, Destination("someone/model"))
    shards = {name for name in repo.files("main") if re.fullmatch(r"model-.*\.safetensors", name)}
    assert len(shards) > 1 and WEIGHTS not in repo.files("main")
    for path in original.glob("model*"):
        path.unlink()
    stock.save_pretrained(original)
    publish(original, Destination("someone/model"))
    assert not shards & set(repo.files("main")) and WEIGHTS in repo.files("main")


def publish_ours(hub, run):
    """The same model in our form, in the same repository."""
    write_card(run, complete=False)
    files = publishing.repository_files(run)
    publishing.send_commit(files, Destination("someone/model"), "Ours")
    names = set(hub.repos["someone/model"].files("main"))
    assert any(name.endswith(".py") for name in names) and any(name.startswith("original_files/") for name in names)


def assert_refused(hub, directory, words, capsys):
    assert main([str(directory), "--repo_id", "someone/model", "--trust_remote_code", "true"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1, error
    assert not [word for word in words if word not in error], error
    assert not hub.repos


def test_a_wrong_tensor_is_refused_before_the_push(hub, forked, original, capsys):
    weights = safetensors.torch.load_file(original / WEIGHTS)
    weights["bert.encoder.layer.0.output.dense.weight"][0, 0] += 0.5
    safetensors.torch.save_file(weights, original / WEIGHTS, {"format": "pt"})
    shutil.move(original, original.parent.parent / "elsewhere")
    with pytest.raises(
        PublishError, match=r"differs from the reference by .* were written together; nothing was sent"
    ):
        publish(original.parent.parent / "elsewhere", Destination("someone/model"))
    words = ["last_hidden_state differs from the reference", "nothing was sent"]
    assert_refused(hub, original.parent.parent / "elsewhere", words, capsys)


@pytest.mark.parametrize("where", ["config", "tokenizer", "pipelines", "file", "folder", "modules"])
def test_code_is_refused_even_if_it_is_trusted(where, hub, unopened, original, capsys):
    """In a configuration, as a file, as a module of sentence-transformers; also by verify."""
    if where in ("config", "tokenizer"):
        edit(
            original / ("config.json" if where == "config" else "tokenizer_config.json"), auto_map={"AutoModel": "e.M"}
        )
    elif where == "pipelines":
        edit(original / CONFIG, custom_pipelines={"text-classification": {"impl": "e.P"}})
    elif where == "modules":
        modules = [
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_X", "type": "e.Pooling"},
        ]
        (original / "modules.json").write_text(json.dumps(modules))
    else:
        path = original / ("modeling.py" if where == "file" else "sub/modeling.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit")
    assert_refused(hub, original, ["needs no code"], capsys)
    with pytest.raises(ValueError, match="needs no code"):
        seqblend.verify(original)


@pytest.mark.parametrize("name", [REFERENCE, "README.md"])
def test_a_checkpoint_that_was_never_compared_is_refused(name, hub, unopened, original, capsys):
    """Of anybody: without the outputs of our model, and without a card about a run."""
    (original / name).unlink()
    assert_refused(hub, original, [f"{name} is missing", "--save_original true"], capsys)


def test_a_link_and_a_secret_are_refused(hub, unopened, original, capsys):
    edit(original / "tokenizer_config.json", note="hf_0123456789abcdefgh")
    assert_refused(hub, original, ["tokenizer_config.json: line 1 holds a token of Hugging Face"], capsys)
    (original / "tokenizer_config.json").unlink()
    (original / "tokenizer_config.json").symlink_to(original / CONFIG)
    assert_refused(hub, original, ["tokenizer_config.json: is a link"], capsys)


def test_the_command_names_the_repository_on_the_card(hub, unopened, original, capsys, caplog):
    """From the run beside it, if that is the run of this model; else the card stays, with a warning."""
    assert main([str(original), "--repo_id", "someone/model", "--dry_run"]) == 0
    assert "README.md" in capsys.readouterr().out and not hub.repos
    assert "you/one-label" in (original / "README.md").read_text()
    assert main([str(original), "--repo_id", "someone/model", "--revision", "trial"]) == 0
    card = hub.repos["someone/model"].files("trial")["README.md"].decode()
    assert 'repository = "someone/model"' in card and 'from_pretrained(repository, revision="trial")' in card
    assert "you/" not in card and "trust_remote_code" not in card and "it gives the predictions of the run" in card
    assert "pictures/confusion.png" in hub.repos["someone/model"].files("trial")
    away = shutil.copytree(original, original.parent.parent / "away")
    with caplog.at_level(logging.WARNING, logger="seqblend"):
        assert main([str(away), "--repo_id", "someone/other"]) == 0
    assert "away/README.md does not name someone/other: its run is not beside it" in caplog.text
    (original / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    assert main([str(original), "--repo_id", "someone/mine"]) == 0
    assert hub.repos["someone/mine"].files("main")["README.md"].endswith(b"# Mine\n")


def test_the_results_of_another_run_do_not_get_on_its_card(hub, unopened, run, original, capsys):
    """A run was trained once more in the same directory, and the original is still of the first one."""
    weights = safetensors.torch.load_file(run / WEIGHTS)
    weights["score.bias"] += 0.1
    safetensors.torch.save_file(weights, run / WEIGHTS, {"format": "pt"})
    assert_refused(hub, original, ["logits differs", "holds another model than", "write the latter again"], capsys)


def test_a_failed_push_says_how_to_continue(hub, unopened, original):
    hub.fault = lambda index, method, path: 500 if "/commit/" in path else None
    with pytest.raises(PublishError) as failed:
        publish(original, Destination("someone/model"))
    assert f"The complete model is in {original};" in str(failed.value)
    assert f"python -m seqblend.hub_card.publish {original} --repo_id someone/model" in str(failed.value)


def test_a_checkpoint_of_sentence_transformers_stays_whole(runs, unopened, tmp_path):
    """The modules of a classifier, as a CrossEncoder, are in the repository as they were; other folders are not."""
    run = shutil.copytree(runs["one-label"], tmp_path / "run")
    modules = b'[{"path": "",\n "type": "sentence_transformers.models.Transformer"}, '
    modules += b'{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]'
    folder = run / "original_files"
    kept = {"modules.json": modules, "1_Pooling/config.json": b'{"pooling_mode_mean_tokens":  true}'}
    for name, content in kept.items():
        (folder / f"file-{name.replace('/', '--')}").write_bytes(content)
    files = json.loads((folder / "origin.json").read_text())["files"]
    edit(folder / "origin.json", files=[*files, *kept])
    edit(folder / "config.json", architectures=["BertForSequenceClassification"])
    shutil.rmtree(run / "original")
    target = write_original(run)
    assert all((target / name).read_bytes() == content for name, content in kept.items())
    for name in ("checkpoint-1/config.json", "2_Dense/config.json", "all_results.json"):
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text("{}")
    assert set(kept) < set(repository_files(target))
    assert not [name for name in repository_files(target) if name.startswith(("checkpoint", "2_Dense", "all"))]


# --- The base model ---


def test_a_base_model_is_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    paths = (str(tmp_path), "runs/mine", "./x", "../x/y", "/x/y", "a/b/c", "~/x", "", None)
    assert hub_names(*paths, "google-bert/bert-base-cased", "gpt2") == ["google-bert/bert-base-cased", "gpt2"]


@pytest.mark.parametrize("given", ["local", "someone/base"])
def test_our_card_names_the_base_model_and_no_path(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    tiny_model(BlendEncoderForSequenceClassification).save_pretrained(tmp_path / "m")
    card = write_card(tmp_path / "m", CardData(base_model=given), complete=False).read_text()
    named = [given] if given == "someone/base" else None
    assert yaml.safe_load(card.split("---\n")[1]).get("base_model") == named
    assert ("| base model | `someone/base` |" in card) == (named is not None) == ("base model" in card)


def test_a_run_records_its_base_model(tmp_path, monkeypatch):
    """Of a model that is trained from the Hub; a path on the command line is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    for path, named in (("someone/base", {"base_model": ["someone/base"]}), ("local", {}), (None, {})):
        assert base_model_facts(ModelArguments(model_name_or_path=path), SimpleNamespace(do_train=True)) == named
    given = ModelArguments(model_name_or_path="someone/base")
    assert base_model_facts(given, SimpleNamespace(do_train=False)) == {}
    assert card_facts(DataArguments(card_data="base_model=someone/base")) == {"base_model": "someone/base"}
    with pytest.raises(InputError, match="card_data: base_model: 'local' is not the name of a repository"):
        card_facts(DataArguments(card_data="base_model=local"))


def test_verify_isolated_uses_the_class_of_transformers(runs, forked):
    assert verify_isolated(runs["last-end"] / "original").keys() == {"AutoModelForSequenceClassification"}
