"""`seqblend convert`, either way: what is written, which head, what is refused, and that nothing is left behind."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from conftest import WITHOUT_PACKAGE, assert_close, tiny_config
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from stock import PAD, STOCK, VOCAB, auto, outputs, padded, rows, stock_model, write_files
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForPreTraining,
    BertForQuestionAnswering,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from seqblend import BlendEncoderConfig, BlendEncoderForMaskedLM, to_original
from seqblend.checkpoints.loading import load_config, load_weights
from seqblend.conversion import ConversionError, comparison, convert, converting
from seqblend.conversion.__main__ import main
from seqblend.conversion.registry import ARCHITECTURES
from seqblend.conversion.target import check_target
from seqblend.data.errors import InputError
from seqblend.hub_card.contents import PublishError, repository_files
from seqblend.tasks.registry import TASKS

WEIGHTS, CONFIG, ADAPTER = "model.safetensors", "config.json", "adapter_config.json"
# One head of each architecture, all kinds of heads by turns.
CASES = [
    (name, list(architecture.heads)[-1 - index % len(architecture.heads)])
    for index, (name, architecture) in enumerate(ARCHITECTURES.items())
]


@pytest.fixture(autouse=True)
def verbose_errors_only():
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity_warning()


def save_tokenizer(directory: Path) -> None:
    """A tokenizer whose words are t4 … t98."""
    words = {"<s>": 0, "<pad>": PAD, "</s>": 2, "<unk>": 3} | {f"t{index}": index for index in range(4, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    special |= {"mask_token": "t5", "model_max_length": 32}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)


def save_stock(directory: Path, model_type: str, head: str, **options) -> Path:
    stock_model(model_type, head, torch.float32, **options).save_pretrained(directory)
    save_tokenizer(directory)
    return directory


@pytest.fixture
def classifier(tmp_path):
    return save_stock(tmp_path / "theirs", "bert", "AutoModelForSequenceClassification")


@pytest.fixture
def ours(classifier, tmp_path):
    convert(classifier, tmp_path / "ours")
    return tmp_path / "ours"


def change(directory: Path, **changes) -> None:
    """Change keys of config.json; None takes one away."""
    config = json.loads((directory / CONFIG).read_text()) | changes
    (directory / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def refused(capsys, *argv: object) -> str:
    """The line that the command prints when it refuses."""
    capsys.readouterr()
    assert main([str(each) for each in argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


# What is written.


@pytest.mark.parametrize("model_type, head", CASES, ids=lambda value: value.removeprefix("AutoModel") or "Model")
@torch.no_grad()
def test_there_and_back(model_type, head, tmp_path, capsys):
    """The head is that of config.json; logits are equal on the way; the weights come back byte by byte."""
    source = save_stock(tmp_path / "theirs", model_type, head)
    assert main([str(source), str(tmp_path / "ours")]) == 0
    written = capsys.readouterr().out
    assert (
        written.count("\n") == 1
        and f"from {ARCHITECTURES[model_type].model_type}; preserved in original_files/: " in written
    )
    model = auto(head).from_pretrained(tmp_path / "ours")
    assert f"{type(model).__name__} " in written and f" {model.num_parameters():,} parameters" in written
    stock = auto(head).from_pretrained(source)
    batch = padded(rows(model_type, head))
    # In float64, because float32 differs by more on some processors. Parts of some stock models are always float32.
    assert_close(outputs(model.double(), batch), outputs(stock.double(), batch), 1e-5)

    assert main([str(tmp_path / "ours"), str(tmp_path / "back")]) == 0
    assert f"{type(stock).__name__} " in capsys.readouterr().out
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("theirs", "back"))
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    for name in names_in(source) - {CONFIG, WEIGHTS}:
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes(), name
    assert names_in(tmp_path) == {"theirs", "ours", "back"}
    for written in ("ours", "back"):
        check_target(tmp_path / written, source, overwrite=True)


def test_a_converted_model_works_at_once(ours):
    """Tokenizer, model and pipeline open the directory, here and where the package is not installed."""
    tokenizer = AutoTokenizer.from_pretrained(ours)
    assert tokenizer("t9 t7")["input_ids"] == [9, 7] and tokenizer.model_max_length == 32
    answer = pipeline("text-classification", model=str(ours), device="cpu")("t9 t7 t8")[0]
    assert answer["label"].startswith("LABEL_")
    assert (ours / "modeling_encoder.py").exists() and (ours / "original_files" / "origin.json").exists()
    code = WITHOUT_PACKAGE + (
        "from transformers import pipeline\n"
        f"print(pipeline('text-classification', model={str(ours)!r}, trust_remote_code=True)('t9 t7 t8')[0]['score'])"
    )
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(alone) == pytest.approx(answer["score"], abs=1e-6)


def test_predict_opens_a_converted_model(ours, tmp_path):
    from seqblend.predict import main as predict

    (tmp_path / "texts.txt").write_text("t9 t7 t8\nt4\n")
    assert predict([str(ours), "--input", str(tmp_path / "texts.txt"), "--output", str(tmp_path / "out.jsonl")]) == 0
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = pipeline("text-classification", model=str(ours), device="cpu")(["t9 t7 t8", "t4"])
    assert [each["label"] for each in expected] == [each["prediction"] for each in answers]


def test_another_head_is_new_and_named(classifier, tmp_path, capsys):
    """Only the base model is compared; heads of the checkpoint that are left out are named."""
    source = save_stock(tmp_path / "filler", "bert", "AutoModelForMaskedLM")
    assert main([str(source), str(tmp_path / "tagger"), "--head", "token-classification"]) == 0
    written = capsys.readouterr().out
    assert "newly initialized, train before use: classifier.bias, classifier.weight" in written
    assert "states of the base model" in written
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "tagger")
    assert model.config.architectures == ["BlendEncoderForTokenClassification"]
    conversion = convert(classifier, tmp_path / "base", head="base")
    assert conversion.report.ignored == ["classifier.bias", "classifier.weight"]
    assert "tensors of other heads, which are ignored: classifier.bias, classifier.weight" in str(conversion)


def test_new_tensors_have_the_names_of_seqblend(tmp_path):
    """RoBERTa's classifier.out_proj is our score."""
    save_stock(tmp_path / "theirs", "roberta", "AutoModel")
    conversion = convert(tmp_path / "theirs", tmp_path / "ours", head="sequence-classification")
    new = ["head.dense.bias", "head.dense.weight", "score.bias", "score.weight"]
    assert conversion.report.initialized == new
    assert {*new} <= load_file(tmp_path / "ours" / WEIGHTS).keys()


def test_a_key_that_must_not_be_null_is_named(tmp_path, capsys):
    source = save_stock(tmp_path / "theirs", "roberta", "AutoModelForMaskedLM")
    content = json.loads((source / CONFIG).read_text()) | {"pad_token_id": None}
    (source / CONFIG).write_text(json.dumps(content))
    assert "pad_token_id is null in config.json" in refused(capsys, source, tmp_path / "ours")


def test_a_head_that_the_architecture_lacks_is_named(tmp_path):
    """Marian has no classifier: it is new, and cannot be converted back."""
    save_stock(tmp_path / "theirs", "marian", "AutoModelForSeq2SeqLM")
    conversion = convert(tmp_path / "theirs", tmp_path / "ours", head="sequence-classification")
    assert "score.weight" in conversion.report.initialized
    with pytest.raises(ConversionError, match="marian has no stock class for AutoModelForSequenceClassification"):
        convert(tmp_path / "ours", tmp_path / "back")


def test_a_trained_model_is_converted_back(ours, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(ours)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "trained")
    convert(tmp_path / "trained", tmp_path / "back")
    stock = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    batch = padded(rows("bert", "AutoModelForSequenceClassification"))
    with torch.no_grad():
        assert_close(outputs(model.eval(), batch), outputs(stock, batch), 1e-5)


def test_tensors_that_come_back_are_named(tmp_path):
    """The pooler of a base model is preserved; a classifier has its own."""
    save_stock(tmp_path / "theirs", "bert", "AutoModel")
    pooler = ["pooler.dense.bias", "pooler.dense.weight"]
    conversion = convert(tmp_path / "theirs", tmp_path / "ours")
    assert conversion.tensors == pooler and "2 files and the tensors pooler.dense.bias, pooler" in str(conversion)
    assert convert(tmp_path / "ours", tmp_path / "back").tensors == pooler
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "classifier")
    assert convert(tmp_path / "classifier", tmp_path / "back-classifier").tensors == []


def test_the_base_model_alone_is_converted_back(ours, tmp_path):
    convert(ours, tmp_path / "back", head="base")
    assert json.loads((tmp_path / "back" / CONFIG).read_text())["architectures"] == ["BertModel"]


def test_without_a_tokenizer(classifier, tmp_path, capsys):
    for name in names_in(classifier) - {CONFIG, WEIGHTS}:
        (classifier / name).unlink()
    assert main([str(classifier), str(tmp_path / "ours")]) == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        f"note: {classifier} has no tokenizer, so {tmp_path / 'ours'} has none either"
    )
    assert "tokenizer.json" not in names_in(tmp_path / "ours")
    # One that came later goes along: no original tokenizer is overwritten.
    save_tokenizer(tmp_path / "ours")
    assert main([str(tmp_path / "ours"), str(tmp_path / "back")]) == 0
    assert "the original had no tokenizer, so that of" in capsys.readouterr().out
    assert AutoTokenizer.from_pretrained(tmp_path / "back")("t9 t7")["input_ids"] == [9, 7]


@pytest.mark.parametrize("file", [CONFIG, "tokenizer_config.json"])
def test_a_tokenizer_without_a_vocabulary(file, tmp_path):
    """ByT5 reads bytes. Its class is named in one of two files."""
    stock = stock_model("t5", "AutoModelForSeq2SeqLM", torch.float32, vocab_size=400)
    stock.save_pretrained(tmp_path / "source")
    ByT5Tokenizer().save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "tokenizer_config.json"
    content = json.loads(path.read_text())
    del content["tokenizer_class"]
    path.write_text(json.dumps(content))
    path = tmp_path / "source" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "ByT5Tokenizer"}))
    assert not convert(tmp_path / "source", tmp_path / "ours").notes
    assert AutoTokenizer.from_pretrained(tmp_path / "ours")("a é")["input_ids"] == [100, 35, 198, 172, 1]
    assert not convert(tmp_path / "ours", tmp_path / "back").notes
    source, back = (tmp_path / name / "tokenizer_config.json" for name in ("source", "back"))
    assert back.read_bytes() == source.read_bytes()


def test_another_tokenizer_beside_the_model_is_named(ours, tmp_path):
    """The original one is written."""
    content = json.loads((ours / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    content["model"]["vocab"] |= {"Hello,": 9}
    (ours / "tokenizer.json").write_text(json.dumps(content))
    content["pre_tokenizer"] = {"type": "Whitespace"}
    (ours / "tokenizer.json").write_text(json.dumps(content))
    assert "it gives other tokens than that of" in convert(ours, tmp_path / "back").notes[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtypes(dtype, classifier, tmp_path):
    convert(classifier, tmp_path / "ours", dtype=dtype)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", dtype="auto")
    assert model.dtype == getattr(torch, dtype)


# T5 of transformers keeps some weights in float32 in a model in float16; the others compute sinusoids.
IN_HALF = ["llama", "t5", "marian", "pegasus", "m2m_100"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", IN_HALF)
def test_half_precision_goes_back_as_it_was(model_type, dtype, tmp_path):
    head = "AutoModelForCausalLM" if model_type == "llama" else "AutoModelForSeq2SeqLM"
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    stock_model(model_type, head, dtype).save_pretrained(theirs)
    convert(theirs, ours)
    convert(ours, tmp_path / "back")
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("theirs", "back"))
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == dtype for name in before)
    # Trained in float32, it is written in float32; so are sinusoids, which half precision has rounded.
    model = auto(head).from_pretrained(ours)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.001)
    to_original(model, tmp_path / "trained")
    again = ARCHITECTURES[model_type].heads[head].stock_class.from_pretrained(tmp_path / "trained").eval()
    assert comparison.compare(model, again) < 1e-5


@pytest.mark.parametrize("model_type", IN_HALF)
def test_weights_are_rounded_if_asked_for(model_type, tmp_path):
    head = "AutoModelForCausalLM" if model_type == "llama" else "AutoModelForSeq2SeqLM"
    stock_model(model_type, head, torch.float32).save_pretrained(tmp_path / "theirs")
    assert convert(tmp_path / "theirs", tmp_path / "ours", dtype="float16").error < 1e-5
    assert auto(head).from_pretrained(tmp_path / "ours", dtype="auto").dtype == torch.float16
    assert convert(tmp_path / "ours", tmp_path / "back").error < 1e-5


def test_a_configuration_without_names(classifier, tmp_path, capsys):
    """Neither of the architecture nor of the class."""
    change(classifier, model_type=None, architectures=None)
    assert "has no model_type" in refused(capsys, classifier, tmp_path / "ours")
    line = refused(capsys, classifier, tmp_path / "ours", "--model_type", "bert")
    assert "names no class in `architectures`; give --head, one of base (BertModel), masked-lm (Ber" in line
    given = {"model_type": "bert", "head": "sequence-classification"}
    assert convert(classifier, tmp_path / "ours", **given).error < 1e-5


@pytest.mark.parametrize("head", ["AutoModelForCausalLM", "AutoModelForSequenceClassification"])
def test_without_a_padding_token(head, tmp_path):
    """A stock classifier then reads single texts only."""
    save_stock(tmp_path / "theirs", "gpt2", head, pad_token_id=None)
    assert convert(tmp_path / "theirs", tmp_path / "ours").error < 1e-5
    assert convert(tmp_path / "ours", tmp_path / "back").error < 1e-5


MODULES = {
    "modules.json": json.dumps(
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]
    ).encode(),
    "1_Pooling/config.json": b'{"pooling_mode_cls_token":  true}',
    "sentence_bert_config.json": b'{"max_seq_length":  16}',
}


def test_repositories_of_the_hub(tmp_path, hub):
    """Both directions, a revision too; the modules of sentence-transformers go along, and are published."""
    save_stock(tmp_path / "theirs", "bert", "AutoModel")
    write_files(tmp_path / "theirs", MODULES)
    api = HfApi()
    api.create_repo("someone/theirs")
    first = api.upload_folder(repo_id="someone/theirs", folder_path=tmp_path / "theirs")
    change(tmp_path / "theirs", model_type="deberta")
    api.upload_folder(repo_id="someone/theirs", folder_path=tmp_path / "theirs")
    with pytest.raises(ConversionError, match="'deberta' is not supported"):
        convert("someone/theirs", tmp_path / "ours")
    convert("someone/theirs", tmp_path / "ours", revision=first.oid)
    assert repository_files(tmp_path / "ours").keys() >= {*MODULES, "original_files/file-modules.json"}

    api.create_repo("someone/ours")
    api.upload_folder(repo_id="someone/ours", folder_path=tmp_path / "ours")
    convert("someone/ours", tmp_path / "back")
    for name, content in MODULES.items():
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "back" / name).read_bytes() == content, name
    with pytest.raises(OSError, match="someone/nothing"):
        convert("someone/nothing", tmp_path / "target")
    assert names_in(tmp_path) == {"theirs", "ours", "back", "cache"}


@pytest.mark.parametrize("link", ["modules.json", "1_Pooling"])
def test_modules_that_are_links_are_not_published(link, tmp_path):
    save_stock(tmp_path / "theirs", "bert", "AutoModel")
    write_files(tmp_path / "theirs", MODULES)
    convert(tmp_path / "theirs", tmp_path / "ours")
    (tmp_path / "ours" / link).rename(tmp_path / "elsewhere")
    (tmp_path / "ours" / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PublishError, match=f"{link}: is a link"):
        repository_files(tmp_path / "ours")


def test_legacy_keys(ours, tmp_path):
    convert(ours, tmp_path / "plain")
    convert(ours, tmp_path / "legacy", legacy_keys=True)
    plain, legacy = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("plain", "legacy"))
    assert legacy.keys() - plain.keys() == {"position_embedding_type"}


def test_original_files_of_another_model(ours, tmp_path, capsys):
    """Where a model was saved by code that does not write them."""
    shutil.copytree(ours, tmp_path / "trained", ignore=shutil.ignore_patterns("original_files"))
    line = refused(capsys, tmp_path / "trained", tmp_path / "back")
    assert "its original_files/ cannot be read" in line and "give --original_files" in line
    convert(tmp_path / "trained", tmp_path / "back", original_files=ours)
    assert (tmp_path / "back" / "tokenizer.json").exists()


# The target.


def test_a_target_that_is_not_empty(classifier, tmp_path, capsys):
    target = tmp_path / "ours"
    target.mkdir()
    convert(classifier, target)  # it was empty
    before = (target / CONFIG).read_bytes()
    assert "is not empty" in refused(capsys, classifier, target)
    (target / "pytorch_model.bin").write_text("of the model before")
    assert main([str(classifier), str(target), "--overwrite"]) == 0
    assert (target / CONFIG).read_bytes() == before and "pytorch_model.bin" not in names_in(target)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    assert "home is not replaced, because it holds no model" in refused(
        capsys, classifier, tmp_path / "home", "--overwrite"
    )
    assert names_in(tmp_path / "home") == {"letter.txt"}
    assert "is a file" in refused(capsys, classifier, tmp_path / "home" / "letter.txt")
    assert names_in(tmp_path) == {"theirs", "ours", "home"}


@pytest.mark.parametrize("name", ["notes.md", "trainer_state.json", "checkpoint-4/model.safetensors", "train.py"])
def test_files_of_the_user_are_not_replaced(name, classifier, ours, capsys):
    """The target holds a model, but not only a model."""
    (ours / name).parent.mkdir(exist_ok=True)
    (ours / name).write_text("mine")
    assert f"ours holds {name}, which would be lost" in refused(capsys, classifier, ours, "--overwrite")
    assert (ours / name).read_text() == "mine"


def test_the_settings_of_another_program_are_no_model(classifier, tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / CONFIG).write_text('{"editor": "vi"}')
    assert "it holds no model (no model_type in config.json)" in refused(
        capsys, classifier, tmp_path / "home", "--overwrite"
    )
    assert names_in(tmp_path / "home") == {CONFIG}


@pytest.mark.parametrize("place", ["", "within", ".."])
def test_a_target_that_is_its_source(place, classifier, capsys):
    assert "overlap" in refused(capsys, classifier, classifier / place, "--overwrite")


def test_the_current_directory_is_not_replaced(classifier, tmp_path, capsys, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "is the current directory" in refused(capsys, classifier, ".")


def test_a_target_has_the_permissions_of_a_new_directory(classifier, tmp_path):
    (tmp_path / "plain").mkdir()
    convert(classifier, tmp_path / "new" / "ours")
    assert (tmp_path / "new" / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_target_is_replaced_only_by_a_whole_model(classifier, ours, tmp_path, capsys, monkeypatch):
    before = {path.name: path.read_bytes() for path in ours.iterdir() if path.is_file()}
    monkeypatch.setattr(comparison, "TOLERANCE", -1.0)
    assert "the outputs differ" in refused(capsys, classifier, ours, "--overwrite")
    assert {path.name: path.read_bytes() for path in ours.iterdir() if path.is_file()} == before
    assert names_in(tmp_path) == {"theirs", "ours"}


# The comparison.


@pytest.mark.parametrize("direction", ["to ours", "to theirs"])
def test_other_outputs_are_refused(direction, classifier, ours, tmp_path, capsys, monkeypatch):
    """A weight is changed after it was written."""
    write = converting.write_tokenizer if direction == "to ours" else converting.to_original

    def write_damaged(model, directory, *options):
        write(model, directory, *options)
        tensors = load_file(directory / WEIGHTS)
        name = next(name for name in tensors if "mlp.up" in name or "intermediate" in name)
        tensors[name][0] += 0.5
        save_file(tensors, directory / WEIGHTS, {"format": "pt"})

    monkeypatch.setattr(converting, write.__name__, write_damaged)
    source = classifier if direction == "to ours" else ours
    line = refused(capsys, source, tmp_path / "new" / "target")
    assert re.search(
        r"the outputs differ from those of BertFor\w+ by up to \d\.\de[-+]\d+ of their standard dev", line
    )
    assert names_in(tmp_path) == {"theirs", "ours"}


def test_another_tokenizer_than_before_is_refused(classifier, tmp_path, capsys, monkeypatch):
    tokens = iter(["before", "after"])
    monkeypatch.setattr(converting, "tokens_of", lambda tokenizer: next(tokens))
    assert "the tokenizer gives other tokens" in refused(capsys, classifier, tmp_path / "ours")
    assert names_in(tmp_path) == {"theirs"}


# What is refused.


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def shard(directory: Path) -> Path:
    """Save the weights in shards; one of them."""
    AutoModelForSequenceClassification.from_pretrained(directory).save_pretrained(directory, max_shard_size="20KB")
    (directory / WEIGHTS).unlink(missing_ok=True)
    return next(directory.glob("model-00002-of-*.safetensors"))


def adapt(directory: Path) -> None:
    """Put the settings of an adapter beside the model."""
    (directory / ADAPTER).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "another"}))


FAULTS = {
    "missing shard": (lambda path: shard(path).unlink(), "model-00002-of-.*, which does not exist"),
    "damaged shard": (lambda path: damage(shard(path)), r"model-00002-of-\S+ is damaged"),
    "damaged weights": (lambda path: damage(path / WEIGHTS), r"model\.safetensors is damaged"),
    "no weights": (lambda path: (path / WEIGHTS).unlink(), "has no weights"),
    "no configuration": (lambda path: (path / CONFIG).unlink(), r"theirs has no config\.json$"),
    "an adapter": (
        lambda path: (path / CONFIG).rename(path / ADAPTER),
        r"has adapter_config\.json and no config\.json: it is an adapter; merge it into its base model first",
    ),
    "an adapter beside": (adapt, r"a whole model \(config\.json\) and an adapter \(adapter_config\.json\)"),
    "damaged configuration": (lambda path: damage(path / CONFIG), r"config\.json"),
    "configuration is a list": (lambda path: (path / CONFIG).write_text("[1]"), r"config\.json"),
    "damaged tokenizer": (lambda path: damage(path / "tokenizer.json"), "its tokenizer cannot be loaded"),
    "damaged modules": (lambda path: (path / "modules.json").write_text("{"), r"modules\.json is no JSON"),
    "unsupported": (lambda path: change(path, model_type="deberta"), "'deberta' is not supported; supported, near"),
    "other shapes": (lambda path: change(path, intermediate_size=64), "has the shape"),
    "unknown class": (
        lambda path: change(path, architectures=["Foo"]),
        "names the class Foo, which is not a class of bert",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_is_refused(fault, classifier, tmp_path, capsys):
    make, message = FAULTS[fault]
    make(classifier)
    assert re.search(message, refused(capsys, classifier, tmp_path / "ours"))
    assert names_in(tmp_path) == {"theirs"}


OWN_FAULTS = {
    "an adapter beside": (adapt, r"a whole model \(config\.json\) and an adapter \(adapter_config\.json\)"),
    "missing shard": (lambda path: shard(path).unlink(), "model-00002-of-.*, which does not exist"),
    "damaged weights": (lambda path: damage(path / WEIGHTS), r"model\.safetensors is damaged"),
    "damaged original": (lambda path: damage(path / "original_files" / CONFIG), r"its original_files/ cannot be read"),
    "no original": (lambda path: change(path, original_model_type=None), "was not converted from another architect"),
    "other shapes": (lambda path: change(path, intermediate_size=64), r"the shape of \S+ does not match config\.json"),
    "unknown class": (
        lambda path: change(path, architectures=["Foo"]),
        r"names the class Foo, which is not a class of blend_encoder; give --head, one of base \(BlendEncoderModel\)",
    ),
    "not expressible": (lambda path: change(path, pooling="mean"), "cannot express pooling='mean'"),
}


@pytest.mark.parametrize("fault", OWN_FAULTS)
def test_a_damaged_model_of_ours_is_refused(fault, ours, tmp_path, capsys):
    make, message = OWN_FAULTS[fault]
    make(ours)
    assert re.search(message, refused(capsys, ours, tmp_path / "back"))
    assert names_in(tmp_path) == {"theirs", "ours"}


@pytest.mark.parametrize("name", ["theirs", "ours"])
def test_a_whole_model_with_an_adapter_is_not_opened(name, ours, tmp_path):
    """transformers adds the adapter to it without a word."""
    directory = str(tmp_path / name)
    config = load_config(directory)
    adapt(tmp_path / name)
    message = r"a whole model \(config\.json\) and an adapter \(adapter_config\.json\)"
    with pytest.raises(InputError, match=message):
        load_config(directory)
    with pytest.raises(InputError, match=message):
        load_weights(AutoModelForSequenceClassification, directory, config)


def test_a_model_that_was_never_converted_is_refused(tmp_path, capsys):
    BlendEncoderForMaskedLM(tiny_config(BlendEncoderConfig)).save_pretrained(tmp_path / "ours")
    assert "was not converted from another architecture" in refused(capsys, tmp_path / "ours", tmp_path / "back")


@pytest.mark.parametrize("source", ["./nothing", "/nothing/at/all", "no/such/repository", "nobody/nothing"])
def test_no_such_source(source, tmp_path, capsys):
    assert source in refused(capsys, source, tmp_path / "deep" / "ours")
    assert names_in(tmp_path) == set()


def test_a_directory_has_no_revision(classifier, tmp_path, capsys):
    assert "revision: is for a repository" in refused(capsys, classifier, tmp_path / "ours", "--revision", "main")


def test_a_file_is_no_source(classifier, tmp_path, capsys):
    assert "is a file" in refused(capsys, classifier / WEIGHTS, tmp_path / "ours")


@pytest.mark.parametrize("stock_class", [BertForQuestionAnswering, BertForPreTraining])
def test_an_unsupported_class_lists_the_heads(stock_class, classifier, tmp_path, capsys):
    config = transformers.BertConfig(**STOCK["bert"])
    stock_class(config).save_pretrained(tmp_path / "other")
    line = refused(capsys, tmp_path / "other", tmp_path / "ours")
    assert f"names the class {stock_class.__name__}, which is not a class of bert" in line
    for head in ("base (BertModel)", "masked-lm (BertForMaskedLM)", "token-classification (BertForTokenClass"):
        assert head in line
    assert convert(tmp_path / "other", tmp_path / "ours", head="base").error < 1e-5


def test_an_unsupported_class_of_an_embedder_is_named(classifier, tmp_path, capsys):
    """As T5's encoder alone."""
    change(classifier, architectures=["T5EncoderModel"])
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    (classifier / "modules.json").write_text(json.dumps(modules))
    assert "names the class T5EncoderModel, which is not a" in refused(capsys, classifier, tmp_path / "ours")


def test_a_head_of_another_family_is_refused(classifier, ours, tmp_path, capsys):
    for source in (classifier, ours):
        line = refused(capsys, source, tmp_path / "target", "--head", "causal-lm")
        assert "cannot have causal-lm, only base, masked-lm, sequence-classification, token-classification" in line
    with pytest.raises(ValueError, match="head: unknown value 'sequence'; valid are sequence-classification"):
        convert(classifier, tmp_path / "target", head="sequence")


def test_a_head_without_weights_does_not_go_back(ours, tmp_path, capsys):
    line = refused(capsys, ours, tmp_path / "back", "--head", "token-classification")
    assert "the head needs classifier.bias, classifier.weight, which are missing; give another --head" in line


OTHER_WAY = [
    ("ours", "--model_type", "bert"),
    ("ours", "--dtype", "float32"),
    ("theirs", "--legacy_keys"),
    ("theirs", "--original_files", "ours"),
]


@pytest.mark.parametrize("name, option, values", [(name, option, values) for name, option, *values in OTHER_WAY])
def test_an_option_of_the_other_direction_is_refused(name, option, values, ours, tmp_path, capsys):
    line = refused(capsys, tmp_path / name, tmp_path / "target", option, *values)
    kind = {"ours": "a checkpoint of another architecture", "theirs": "a model of seqblend"}[name]
    assert line == f"error: {option.removeprefix('--')}: applies only to {kind}, and {tmp_path / name} is not one\n"
    assert names_in(tmp_path) == {"theirs", "ours"}


def test_help_and_list(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for head in converting.HEADS:
        assert head in text.replace("\n                        ", "")
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out.split()
    assert {each.model_type for each in ARCHITECTURES.values()} <= set(listed)
    with pytest.raises(SystemExit) as end:
        main(["only-one"])
    assert end.value.code == 2 and "give SOURCE and TARGET" in capsys.readouterr().err


def test_heads_are_named_like_the_tasks_that_train_them():
    tasks = {name: TASKS[name].auto_class.__name__ for name in converting.HEADS if name != "base"}
    assert {"base": "AutoModel", **tasks} == converting.HEADS


def test_models_of_the_auto_classes(ours):
    assert type(AutoModel.from_pretrained(ours)).__name__ == "BlendEncoderModel"
    assert type(AutoModelForMaskedLM.from_pretrained(ours)).__name__ == "BlendEncoderForMaskedLM"
