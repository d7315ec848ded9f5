"""What is saved opens where the package is not installed, in every Auto class of its family."""

import ast
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import SLIDING, every_config, padded, run_without_package, tiny_config, tiny_model
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModel, PreTrainedModel, Trainer, TrainingArguments

from seqblend import (
    FAMILIES,
    BlendDecoderConfig,
    BlendEncoderConfig,
    BlendEncoderDecoderConfig,
    BlendEncoderForTokenClassification,
    BlendEncoderModel,
)
from seqblend.hub_card.export import auto_map, family_code, flat_code, flatten, write_code
from seqblend.hub_card.saved import count_parameters
from seqblend.version import EXPORTED_CODE, __version__

# Opens each place in every Auto class: where an output is known, it must be that one. What was opened in the class it
# was saved in is saved again from there, under another name, and opened likewise; so is the base model out of a head.
OPEN_AND_SAVE = """
import json
from pathlib import Path

import torch, transformers

torch.set_num_threads(1)
root = Path(json.load(sys.stdin))
saved = torch.load(root / "expected.pt")
places = list(saved["outputs"].items())
for place, expected in places:
    source = root / place if (root / place).exists() else place
    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=True)
    # Its own class first: then no other Auto class has marked the base model as code to be copied.
    for name in sorted(set(config.auto_map) - {"AutoConfig"}, key=lambda name: name != place):
        auto_class = getattr(transformers, name)
        model, report = auto_class.from_pretrained(source, trust_remote_code=True, output_loading_info=True)
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        of_base = [key for key in report["missing_keys"] if name == "AutoModel" or key.startswith("model.")]
        assert not of_base and not report["mismatched_keys"], (place, name, report)
        if name in expected:
            assert not report["missing_keys"], (place, name, report)
            with torch.no_grad():
                output = model.eval()(**saved["inputs"])[0]
            error = (output - expected[name]).abs().max() / expected[name].std()
            assert error < 1e-12, (place, name, error)
            print("equal", place, name)
        if place == name:
            model.save_pretrained(root / f"again-{name}")
            places.append((f"again-{name}", expected))
        if place == name == "AutoModelForTokenClassification":
            model.model.save_pretrained(root / "again-base")
            places.append(("again-base", {"AutoModel": expected["AutoModel"]}))
"""


def code_in(directory):
    """The code files in a directory, and what is in them."""
    return {path.name: path.read_bytes() for path in directory.glob("*.py")}


def written_code(config_class, directory):
    write_code(config_class, FAMILIES[config_class], directory)
    return code_in(directory)


def read_config(directory):
    return json.loads((directory / "config.json").read_text())


# Options that recipes do not have, as models that were converted have them.
CONVERTED = {
    BlendEncoderConfig: {
        **{"norm_type": "layernorm", "norm_bias": False, "embedding_norm": True, "first_norm": False, **SLIDING},
        **{"classifier_hidden_act": "gelu", "classifier_hidden_bias": False, "classifier_hidden_norm": True},
        "token_classifier_hidden": True,
        "rope_parameters": {"full_attention": {"rope_theta": 500.0}, "sliding_attention": {"rope_theta": 50.0}},
        "original_model_type": "modernbert",
    },
    BlendDecoderConfig: {"query_key_norm": True, "score_bias": False, "freeze_pad_embedding": True},
    BlendEncoderDecoderConfig: {
        **{"shift_source": True, "shift_start": "last_token", "pooling": "eos", "classifier_hidden_act": "tanh"},
        "freeze_pad_embedding": True,
    },
}


def save_family(config_class, root):
    """Save a model for each Auto class under `root`; where, and what each is to say to the batch in expected.pt."""
    rows = [{"input_ids": torch.randint(3, 99, (length,))} for length in (7, 4, 1)]
    inputs, outputs = padded(rows), {}
    for auto_class, model_class in FAMILIES[config_class].items():
        name, model = auto_class.__name__, tiny_model(model_class, **CONVERTED[config_class])
        model.save_pretrained(root / name)
        with torch.no_grad():
            outputs[name] = {"AutoModel": getattr(model, "model", model)(**inputs)[0], name: model(**inputs)[0]}
    cache(root / name, root / "home")
    outputs["blend/cached"] = outputs[name]
    torch.save({"inputs": inputs, "outputs": outputs}, root / "expected.pt")
    return outputs


def cache(directory, home):
    """Lay a saved directory down as the Hub's cache in `home` has the repository blend/cached."""
    repository, commit = home / "hub" / "models--blend--cached", "0" * 40
    shutil.copytree(directory, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)


@every_config
def test_opens_without_the_package_in_every_auto_class_and_again(config_class, tmp_path):
    outputs = save_family(config_class, tmp_path)
    done = run_without_package(OPEN_AND_SAVE, str(tmp_path), tmp_path)
    heads = [name for name in outputs if name.startswith("AutoModel")]
    known = {place: set(expected) for place, expected in outputs.items()}
    known |= {f"again-{name}": known[name] for name in heads} | {"again-base": {"AutoModel"}}
    equal = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("equal ")]
    assert sorted(equal) == sorted([place, name] for place, names in known.items() for name in names)
    for name in heads:
        again = tmp_path / f"again-{name}"
        assert code_in(again) == code_in(tmp_path / name)
        assert read_config(again)["auto_map"] == read_config(tmp_path / name)["auto_map"]


@every_config
def test_config_names_every_head_and_the_code_is_the_closure(config_class, tmp_path):
    save_family(config_class, tmp_path)
    code = written_code(config_class, tmp_path / "code")
    stem = config_class.model_type.removeprefix("blend_")
    expected = {"AutoConfig": f"configuration_{stem}.{config_class.__name__}"}
    for auto_class, model_class in FAMILIES[config_class].items():
        expected[auto_class.__name__] = f"modeling_{stem}.{model_class.__name__}"
    for auto_class, model_class in FAMILIES[config_class].items():
        config = read_config(tmp_path / auto_class.__name__)
        assert config["auto_map"] == expected
        assert config["architectures"] == [model_class.__name__]
        assert code_in(tmp_path / auto_class.__name__) == code


def test_here_the_package_wins(tmp_path):
    save_family(BlendEncoderConfig, tmp_path)
    for auto_class, model_class in FAMILIES[BlendEncoderConfig].items():
        for trusted in (True, None):
            directory = tmp_path / auto_class.__name__
            assert type(auto_class.from_pretrained(directory, trust_remote_code=trusted)) is model_class
            assert type(AutoConfig.from_pretrained(directory, trust_remote_code=trusted)) is BlendEncoderConfig


@every_config
def test_exported_code_needs_only_its_siblings_and_transformers(config_class, tmp_path):
    code = written_code(config_class, tmp_path)
    allowed = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
    for name, source in code.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and f"{node.module}.py" in code, f"{name}: {ast.unparse(node)}"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert {each.split(".")[0] for each in names} <= allowed, f"{name}: {ast.unparse(node)}"


def test_code_of_one_family_has_nothing_of_another(tmp_path):
    files = {each: set(written_code(each, tmp_path / each.model_type)) for each in FAMILIES}
    encoder, decoder, both = files.values()
    assert not {name for name in encoder if "decoder" in name}
    assert not {name for name in decoder if "encoder" in name}
    assert both == encoder | decoder | {"configuration_encoder_decoder.py", "modeling_encoder_decoder.py"}


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"input_ids": torch.tensor([3, 4, 5]), "labels": torch.tensor([0, 1, 2])}


def test_trainer_saves_are_complete(tmp_path):
    model = tiny_model(BlendEncoderForTokenClassification).float()
    arguments = TrainingArguments(
        tmp_path, max_steps=1, save_steps=1, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(model, arguments, train_dataset=Rows())
    trainer.train()
    trainer.save_model(tmp_path / "final")
    code = written_code(BlendEncoderConfig, tmp_path / "code")
    for directory in (tmp_path / "checkpoint-1", tmp_path / "final"):
        assert code_in(directory) == code
        assert "AutoModelForMaskedLM" in read_config(directory)["auto_map"]


@pytest.fixture
def pushed(monkeypatch):
    """What is committed to a Hub that says yes to everything: each file's name and content."""
    files = {}

    def create_repo(self, repo_id, **kwargs):
        return type("Url", (str,), {"repo_id": repo_id})(repo_id)

    def create_commit(self, repo_id, operations, **kwargs):
        files.update({each.path_in_repo: Path(each.path_or_fileobj).read_bytes() for each in operations})

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    return files


def test_pushes_are_complete(pushed, tmp_path):
    """Where the code stood in the directory when save_pretrained looked which files it writes, it was not uploaded."""
    model = tiny_model(BlendEncoderModel)
    code = written_code(BlendEncoderConfig, tmp_path / "code")
    for push in (
        lambda: model.push_to_hub("someone/model"),
        lambda: model.save_pretrained(tmp_path / "new", push_to_hub=True, repo_id="someone/model"),
        lambda: model.save_pretrained(tmp_path / "new", push_to_hub=True, repo_id="someone/model"),
    ):
        pushed.clear()
        push()
        assert {name: content for name, content in pushed.items() if name.endswith(".py")} == code
        assert "auto_map" in json.loads(pushed["config.json"])


def test_saving_leaves_the_config_as_it_was(tmp_path):
    model = tiny_model(BlendEncoderModel)
    model.save_pretrained(tmp_path)
    assert not hasattr(model.config, "auto_map")
    given = {"AutoModel": "someone/old--modeling_encoder.BlendEncoderModel", "AutoProcessor": "processing.Processor"}
    model.config.auto_map = dict(given)
    model.save_pretrained(tmp_path)
    assert model.config.auto_map == given
    # What the model was read from may name other code; it does not come along.
    assert read_config(tmp_path)["auto_map"] == auto_map(BlendEncoderConfig, FAMILIES[BlendEncoderConfig])


def test_a_process_that_is_not_to_write_writes_nothing(tmp_path):
    tiny_model(BlendEncoderModel).save_pretrained(tmp_path, is_main_process=False)
    assert not list(tmp_path.iterdir())


def test_shards_are_saved_with_the_code(tmp_path):
    tiny_model(BlendEncoderModel).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert "modeling_encoder.py" in code_in(tmp_path)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_what_is_loaded_is_what_was_saved_last(variant, tmp_path):
    """transformers left a whole file beside shards, and loaded it."""
    for limit in ("50GB", "20KB", "20KB", "50GB", "10KB"):
        model = tiny_model(BlendEncoderModel)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(len(limit) + int(limit[:2]))
        model.save_pretrained(save_directory=tmp_path, max_shard_size=limit, variant=variant)
        loaded = AutoModel.from_pretrained(tmp_path, variant=variant)
        assert all(map(torch.equal, loaded.parameters(), model.parameters()))
        if variant is None:
            assert count_parameters(tmp_path) == model.num_parameters()


def test_config_alone_is_saved_without_code_unless_it_names_code(tmp_path):
    config = tiny_config(BlendEncoderConfig)
    config.save_pretrained(tmp_path / "alone")
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["config.json"]
    tiny_model(BlendEncoderModel).save_pretrained(tmp_path / "model")
    AutoConfig.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    assert code_in(tmp_path / "again") == code_in(tmp_path / "model")


def test_parts_name_no_repository(tmp_path):
    """A composite built from a loaded encoder wrote that encoder's path and code into its own config.json."""
    encoder_class, _, both_class = FAMILIES
    tiny_model(FAMILIES[encoder_class][AutoModel]).save_pretrained(tmp_path / "encoder")
    encoder = AutoConfig.from_pretrained(tmp_path / "encoder")
    assert encoder.auto_map and encoder._name_or_path
    config = both_class(encoder=encoder, decoder=tiny_config(both_class).decoder, bos_token_id=1)
    FAMILIES[both_class][AutoModel](config).save_pretrained(tmp_path / "both")
    saved = read_config(tmp_path / "both")
    for part in (saved["encoder"], saved["decoder"]):
        assert not {"_name_or_path", "auto_map", "architectures"} & set(part)
    assert saved["auto_map"] == auto_map(both_class, FAMILIES[both_class])


def test_a_head_of_somebody_elses_is_saved_too(tmp_path):
    """Its family's code is there; what it is itself, only its own module says."""

    class Head(BlendEncoderModel):
        pass

    Head(tiny_config(BlendEncoderConfig)).save_pretrained(tmp_path)
    assert "modeling_encoder.py" in code_in(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is BlendEncoderModel


SOURCE = '''"""é: `from ..configuration.encoder import Thing` and
from the layers .layers import nothing.
"""

import torch
from ..configuration.encoder import Thing  # from ..configuration.encoder import
from .layers import (
    One,  # from .layers import One
    Two as Second,
)
from .deep.er import Four as Fourth, Five

name = "from .layers import One"; text = """from .layers"""


def inside(argument=torch.tensor):
    from .layers import Three

    return One, Second, Three, Thing
'''
FLAT = '''"""é: `from ..configuration.encoder import Thing` and
from the layers .layers import nothing.
"""

import torch
from .configuration_encoder import Thing  # from ..configuration.encoder import
from .modeling_layers import (
    One,  # from .layers import One
    Two as Second,
)
from .modeling_deep_er import Four as Fourth, Five

name = "from .layers import One"; text = """from .layers"""


def inside(argument=torch.tensor):
    from .modeling_layers import Three

    return One, Second, Three, Thing
'''


def test_only_imports_are_rewritten():
    flattened, siblings = flatten(SOURCE.encode(), "blend.modeling.encoder")
    assert flattened.decode() == FLAT
    assert set(siblings) == {"blend.configuration.encoder", "blend.modeling.layers", "blend.modeling.deep.er"}


@pytest.mark.parametrize(
    "source",
    [
        '"""Text.\n\n    from .layers import One\n"""\n',
        '"""Text.\n\nimport .layers\n"""\n',
        "text = '''\nfrom .layers import One'''\nfrom .layers import One\n",
        "import torch; from .layers import One\n",
        "from  .layers import One\n",
        "from \\\n    .layers import One\n",
    ],
)
def test_a_line_that_the_loader_reads_otherwise_is_an_error(source):
    with pytest.raises(ValueError, match=r"blend\.modeling\.encoder: the Hub's loader would follow"):
        flatten(source.encode(), "blend.modeling.encoder")


def test_code_is_the_closure_and_a_folder_is_an_error(tmp_path, monkeypatch):
    files = {
        "modeling/entry.py": "from ..configuration.entry import a\nfrom .part import b\n",
        "modeling/part.py": "from .entry import c\n",
        "modeling/other.py": "from .part import b\n",
        "modeling/whole.py": "from . import part\n",
        "modeling/outside.py": "from ..configuration import a\n",
        "configuration/entry.py": "a = 1\n",
    }
    package = tmp_path / "flat_code_package"
    for name in ("__init__.py", "modeling/__init__.py", "configuration/__init__.py", *files):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(files.get(name, ""))
    monkeypatch.syspath_prepend(tmp_path)
    code = flat_code("flat_code_package.modeling.entry")
    for name, source in code.items():
        folder, _, stem = name.removesuffix(".py").partition("_")
        head, _, code[name] = source.partition(b"not installed.\n")
        module = f"flat_code_package.{folder}.{stem}"
        assert f"{name} of seqblend {__version__}, which is the module {module} ".encode() in head
    assert code == {
        "modeling_entry.py": b"from .configuration_entry import a\nfrom .modeling_part import b\n",
        "configuration_entry.py": b"a = 1\n",
        "modeling_part.py": b"from .modeling_entry import c\n",
    }
    for module in ("whole", "outside"):
        with pytest.raises(ValueError, match="is a folder"):
            flat_code(f"flat_code_package.modeling.{module}")


def test_code_that_changes_raises_the_version():
    """What is saved with models is known by the version in its header; two codes of one version are one too many."""
    digest = hashlib.sha256()
    for config_class, models in FAMILIES.items():
        for name, source in sorted(family_code(config_class, models).items()):
            digest.update(f"{name} {len(source)}\n".encode() + source)
    assert digest.hexdigest() == EXPORTED_CODE, (
        f"The code that is saved with models has changed. Raise __version__ in version.py, run this test again, and "
        f"write what it then says there as EXPORTED_CODE: {digest.hexdigest()}"
    )


def test_the_hook_is_not_exported(tmp_path):
    assert not any(b"patch_saving" in source for source in written_code(BlendEncoderConfig, tmp_path).values())
    assert BlendEncoderModel.save_pretrained.__doc__ == PreTrainedModel.save_pretrained.__doc__
