"""What a directory brings along is data: none of its code runs, and nothing but the model leaves the machine."""

import ast
import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

import attacks
import pytest
import torch
from attacks import ANSWERS, OUTSIDE, attack, edit, make_model
from conftest import tiny_model

import seqblend
from seqblend import BlendEncoderForSequenceClassification, BlendEncoderForTokenClassification
from seqblend.checkpoints.loading import load_config
from seqblend.hub_card import card as card_module
from seqblend.hub_card import publish as publishing
from seqblend.hub_card import verify as verifying
from seqblend.hub_card.card import CardData, write_card
from seqblend.hub_card.contents import PublishError, check_no_secrets, repository_files
from seqblend.hub_card.provenance import ForeignCodeError, check_code, foreign_code, update_code
from seqblend.hub_card.publish import Destination, checked_files
from seqblend.hub_card.secrecy import is_public, is_secret_variable, known_secrets
from seqblend.predict import main as predict
from seqblend.tokenization.loading import load_tokenizer
from seqblend.train import main as train

ROOT = Path(seqblend.__file__).parent
MAINS = {"seqblend.train": train, "seqblend.predict": predict, "seqblend.hub_card.publish": publishing.main}
# A token of nobody, in the form of the real ones.
TOKEN = "hf_" + "abcdefghij" * 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A whole saved model, to be copied."""
    directory = tmp_path_factory.mktemp("saved") / "model"
    make_model(directory)
    return directory


@pytest.fixture
def model(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def unopened(monkeypatch):
    """No process is begun: neither to open what would be sent, nor to run what a card prints."""
    monkeypatch.setattr(publishing, "verify_isolated", lambda directory: {})
    monkeypatch.setattr(card_module, "run_usage", lambda *args: "printed")
    monkeypatch.setattr(card_module, "draw_pictures", lambda *args: [])


# --- Nobody is asked, and no code runs ---

# Where code of a directory is run: in a process of its own, after check_code.
TRUSTING = {("hub_card/verify.py", "verify_auto_classes")}


def loadings():
    """Every call of from_pretrained in the package: file, function, and what it says of trust_remote_code."""
    for path in sorted({*ROOT.glob("*.py"), *ROOT.glob("*/*.py")} - {*ROOT.glob("tests/*.py")}):
        name = path.relative_to(ROOT).as_posix()
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        for node in nodes:
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                around = [each.name for each in functions if each.lineno <= node.lineno <= each.end_lineno]
                said = {each.arg: ast.unparse(each.value) for each in node.keywords}
                yield name, around[-1] if around else "", said.get("trust_remote_code")


def test_every_loading_says_that_no_code_is_run():
    """transformers asks on standard input where trust_remote_code is not said, and a row of data answers."""
    found = list(loadings())
    assert {name for name, _, _ in found} >= {
        "checkpoints/loading.py",
        "tokenization/loading.py",
        "hub_card/verify.py",
    }
    for name, function, trusted in found:
        expected = "True" if (name, function) in TRUSTING else "False"
        assert trusted == expected, f"{name}: {function}: trust_remote_code={trusted}"


def in_this_process(words):
    """As attacks.in_a_process, without a process."""
    output, stdin = io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(ANSWERS.encode()))
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = MAINS[words[0]](words[1:])
    finally:
        sys.stdin = stdin
    return code, output.getvalue()


# Of the table of attacks.py, what is refused before a model is opened.
REFUSED = [
    *(("unknown model type", command) for command in ("train", "predict", "publish")),
    *(("tokenizer with code", command) for command in ("tokenize", "predict", "publish")),
    *(("pickled weights", command) for command in ("train", "predict", "publish")),
    *(("config of another kind", command) for command in ("train", "predict", "publish")),
    *(("config that is a list", command) for command in ("train", "predict", "publish")),
    ("tokenizer in the config", "publish"),
    ("known model type", "publish"),
    ("code of another repository", "publish"),
    ("poisoned code", "publish"),
    ("code that imports more", "publish"),
    ("pipeline with code", "publish"),
    ("link to a file", "publish"),
    ("link to a folder", "publish"),
    ("link to where is written", "publish"),
    ("shards outside", "publish"),
    ("card data outside", "publish"),
    ("results of another kind", "publish"),
]


@pytest.mark.parametrize(("name", "command"), REFUSED)
def test_an_attack_is_refused_in_one_line(name, command, saved, tmp_path):
    outcome = attack(name, command, saved, tmp_path, in_this_process)
    assert outcome.code == 2 and not outcome.faults(), outcome
    assert len([line for line in outcome.output.splitlines() if line.startswith("error: ")]) == 1, outcome.output


def test_every_attack_is_in_the_table():
    assert {name for name, _ in REFUSED} <= set(attacks.ATTACKS) and {each for _, each in REFUSED} <= set(
        attacks.COMMANDS
    )


def test_what_a_card_says_of_a_repository_is_no_code(saved, tmp_path, unopened, monkeypatch):
    """What its run was told stands in a file of the directory, and in the code that is run to be printed."""
    codes = []
    monkeypatch.setattr(card_module, "run_usage", lambda code, *args: codes.append(code) or "printed")
    outcome = attack("card data with code", "publish", saved, tmp_path, in_this_process)
    assert not outcome.faults() and outcome.code == 0, outcome
    assert all(isinstance(each, ast.ImportFrom | ast.Assign | ast.Expr) for each in ast.parse(codes[0]).body)
    assert "touch" not in [getattr(node, "attr", "") for node in ast.walk(ast.parse(codes[0]))]


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_repository_has_a_name_and_no_path(name, model):
    with pytest.raises(ValueError, match="is not the name of a repository"):
        card_module.run_usage("", name, model)


# --- Whose code it is ---


def test_code_of_this_version_is_ours(model):
    assert foreign_code(model) == [] and update_code(model, model.parent / "code") == {}


def test_code_of_an_older_version_is_written_anew_for_the_push(model, unopened, caplog):
    """The directory stays as it is: it may hold changes of the user's."""
    attacks.poisoned_code_of_an_older_version(model, "raise SystemExit\n")
    ours = (model / "modeling_heads.py").read_bytes()
    with checked_files(model, Destination("you/model")) as files:
        sent = {name: path.read_bytes() for name, path in files.items()}
    assert sent["modeling_heads.py"] == ours and b"SystemExit" not in sent["modeling_layers.py"]
    assert "SystemExit" in (model / "modeling_layers.py").read_text()
    assert "its code is from an older seqblend" in caplog.text


def test_code_of_a_newer_version_is_not_ours(model):
    path = model / "modeling_layers.py"
    path.write_text(path.read_text().replace(f"seqblend {seqblend.__version__}", "seqblend 99.0", 1))
    with pytest.raises(ForeignCodeError, match=r"modeling_layers\.py is not what seqblend .* It is not run"):
        check_code(model)


def test_code_of_somebody_else_goes_along_where_it_is_trusted(model, unopened, caplog):
    attacks.code_that_imports_more(model, "import pathlib\n")
    with pytest.raises(PublishError, match=r"modeling_layers\.py is not what .*nothing was sent"):
        checked_files(model, Destination("you/model")).__enter__()
    with checked_files(model, Destination("you/model"), trust_remote_code=True) as files:
        assert files["modeling_layers.py"] == model / "modeling_layers.py" and "somebody_elses_secret.py" in files
    assert "trusted code that is not from seqblend: modeling_layers.py is not what" in caplog.text


def test_a_process_that_runs_code_knows_nothing_of_the_user(model, monkeypatch):
    """Neither the environment nor the home, where the token of whoever is logged in lies."""
    for name in ("DB_PASSWORD", "LANGSMITH_API_KEY", "PATH_OF_MY_KEYS", "HF_TOKEN"):
        monkeypatch.setenv(name, "of-mine")
    began = []
    monkeypatch.setattr(verifying.subprocess, "run", lambda *args, env, **kwargs: began.append(env))
    verifying.run_isolated([str(model)], model)
    (environment,) = began
    assert "of-mine" not in environment.values() and environment["HF_HUB_OFFLINE"] == "1"
    assert not [name for name in ("HOME", "USERPROFILE", "HF_HOME") if environment[name] == os.environ.get(name)]


def test_a_card_does_not_run_somebody_elses_code(model, monkeypatch, caplog):
    monkeypatch.setattr(verifying.subprocess, "run", lambda *args, **kwargs: pytest.fail("a process was begun"))
    attacks.poisoned_code(model, "raise SystemExit\n")
    card = write_card(model, CardData(example="hello")).read_text()
    assert f"Output: {card_module.NOT_MEASURED}." in card and "It is not run" in caplog.text


# --- What is saved names our code and no secrets ---


def test_code_that_a_source_names_is_not_named_by_what_is_saved(model, tmp_path):
    auto_map = json.loads((model / "config.json").read_text())["auto_map"]
    named = {**auto_map, "AutoTokenizer": "someone/evil--evil.Evil", "AutoProcessor": "evil.Evil"}
    edit(model / "config.json", auto_map=named, custom_pipelines={"x": {"impl": "evil.Evil"}})
    edit(model / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Evil"]})
    loaded = BlendEncoderForSequenceClassification.from_pretrained(model)
    loaded.save_pretrained(tmp_path / "model-saved")
    loaded.config.save_pretrained(tmp_path / "config-saved")
    for name in ("model-saved", "config-saved"):
        assert json.loads((tmp_path / name / "config.json").read_text())["auto_map"] == auto_map
        assert (tmp_path / name / "modeling_encoder.py").exists()
    assert loaded.config.auto_map == named
    load_config(str(model)).save_pretrained(tmp_path / "trained")
    load_tokenizer(model).save_pretrained(tmp_path / "trained")
    assert not any("evil" in path.read_text() for path in (tmp_path / "trained").glob("*.json"))


def test_the_token_stays_out_of_what_is_saved(tmp_path):
    from test_export import Rows
    from transformers import Seq2SeqTrainingArguments

    from seqblend.training.trainer import BlendTrainer

    options = {"max_steps": 1, "save_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    args = Seq2SeqTrainingArguments(tmp_path, hub_token=TOKEN, **options)
    config = seqblend.BlendEncoderConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=3
    )
    trainer = BlendTrainer(
        scorers={}, model=seqblend.BlendEncoderForTokenClassification(config), args=args, train_dataset=Rows()
    )
    trainer.train()
    trainer.save_model()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"training_args.bin"} < {path.name for path in written}
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert trainer.args.hub_token == TOKEN
    kept = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert kept.hub_token is None and kept.max_steps == 1


# --- What leaves the machine ---


def test_only_exact_names_are_sent(model):
    attacks.names_that_look_right(model, "")
    assert not [name for name in repository_files(model) if OUTSIDE in name]


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "modeling_layers.py", "predictions.jsonl", "pictures"]
)
def test_a_link_is_not_followed(name, model):
    outside = model.parent / f"outside-{name}"
    if (model / name).exists():
        (model / name).rename(outside)
    (model / name).symlink_to(outside)
    with pytest.raises(PublishError, match=r"is a link, which may lead to other files|is missing"):
        repository_files(model)


def test_a_dry_run_makes_nothing_in_the_directory(model, unopened, capsys):
    """What it would make is looked through and listed all the same."""
    for name in ("reference.safetensors", "README.md"):
        (model / name).unlink()
    before = attacks.contents(model)
    assert publishing.main([str(model), "--repo_id", "you/model", "--dry_run"]) == 0
    assert attacks.contents(model) == before
    listed = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert {"reference.safetensors", "README.md"} < set(listed)


SECRETS = [
    "DB_PASSWORD=hunter2",
    "export AWS_SECRET_ACCESS_KEY='wJalrXUtnFEMI/K7MDENG'",
    "GITHUB_PAT=abcd1234",
    '"SERVICE_TOKEN": "abcdefgh1234"',
    f"another's {TOKEN}",
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2" * 9,
    "AKIA" + "ABCD1234" * 2,
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----",
    "sk-proj-" + "a1B2" * 6,
    "xoxb-1234567890-abc",
    "postgres://me:hunter2@db.example.com/x",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_not_sent_and_not_shown(secret, model, monkeypatch, unopened):
    """Whoever's it is: it is refused in every file, and the card takes its example from another row."""
    rows = [{"input": text, "prediction": "a", "reference": "b"} for text in (f"x {secret}", "a harmless row")]
    (model / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = write_card(model).read_text()
    assert "a harmless row" in card and secret not in card
    edit(model / "tokenizer_config.json", note=secret)
    with pytest.raises(PublishError, match=r"tokenizer_config\.json: line 1 holds a .*nothing was sent"):
        check_no_secrets(repository_files(model))


@pytest.mark.parametrize(
    "text",
    [
        "MAX_TOKENS=4096 and PAD_TOKEN_ID=100257",
        "the PASSWORD: see below",
        "https://example.com:8080/a@b",
        "hf_model sk-learn",
    ],
)
def test_what_is_no_secret_is_shown(text):
    assert is_public(text, {})


def test_the_environments_secrets_are_known_by_their_names(monkeypatch):
    named = (
        "DB_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_PAT",
        "WANDB_API_KEY",
        "MYTOKEN",
        "PGPASSWORD",
        "SENTRY_DSN",
    )
    assert all(map(is_secret_variable, named)) and not any(
        map(is_secret_variable, ("PWD", "OLDPWD", "COMPAT", "KEYBOARD", "TOKENIZERS"))
    )
    monkeypatch.setenv("DB_PASSWORD", "open sesame")
    assert not is_public(["they say open sesame"], dict(known_secrets(set())))


def test_no_secret_no_example(model, unopened):
    """Where every row holds one, the card has none."""
    row = {"input": TOKEN, "prediction": "a", "reference": "a"}
    (model / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    card = write_card(model).read_text()
    assert TOKEN not in card and "For example" not in card


# --- The card's headings and tables ---


def test_names_do_not_end_a_heading_or_a_row(model, unopened):
    labels = {"0": "one\n## Two", "1": "nul\0 | `tick`"}
    edit(model / "config.json", id2label=labels, label2id={name: int(key) for key, name in labels.items()})
    results = {"card_data": {"title": "A\n\n# B", "data": "d\r\n| e"}, "recipe": "r\n| s", "eval_loss": 1.0}
    (model / "all_results.json").write_text(json.dumps(results))
    card = write_card(model).read_text()
    assert "\0" not in card and "# A # B\n" in card
    assert not [line for line in card.splitlines() if line.startswith(("## Two", "# B", "| e |", "| s |"))]
    assert "`one ## Two`" in card and "`` nul | `tick` ``" in card and "d \\| e" in card and "r \\| s" in card


def test_tags_and_words_of_a_tagger_do_not_end_a_line(tmp_path, unopened):
    """Its card tells the scheme of the tags, which are of a file that somebody else may have written."""
    tiny_model(BlendEncoderForTokenClassification).save_pretrained(tmp_path)
    labels = {"0": "B-x\n## Two\0y", "1": "I-x\n## Two\0y"}
    edit(tmp_path / "config.json", id2label=labels, label2id={name: int(key) for key, name in labels.items()})
    edit(tmp_path / "all_results.json", eval_loss=1.0)
    (tmp_path / "predictions.jsonl").write_text('{"input": ["a"], "prediction": ["O"], "reference": ["O"]}\n')
    lines = write_card(tmp_path).read_text().splitlines()
    assert [line for line in lines if line.startswith(r"The tags are IOB2 (B-x\n## Two\x00y, I-x\n## Two\x00y) and")]
    assert not [line for line in lines if line.startswith("## Two") or "\0" in line]
    assert "The model labels words. Split texts into words by the rule 'characters', which reproduces" in "\n".join(
        lines
    )
