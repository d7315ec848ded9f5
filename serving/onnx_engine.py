"""The engine `onnx`: a flat graph that ONNX Runtime computes, in float32 or with int8 weights."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from ..modeling.base import Stack
from ..modeling.heads import ForSequenceClassification
from .flat_graph import FlatGraph, check_model, dynamic_shapes, flat_arrays

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL = "model.onnx"
# What torch's exporter calls the list of modules in which a node was computed.
SCOPES = "name_scopes"
EXAMPLE_LENGTHS = np.array([3, 2, 5])


class OnnxModel:
    """A graph of ONNX Runtime that is called like the model.

    Args:
        directory: holds the graph.
        config: configuration of the model.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """

    device = torch.device("cpu")

    def __init__(self, directory: Path, config: PretrainedConfig):
        self.config = config
        # The fused kernel of addition and norm is slower than both on a CPU.
        self.session = open_session(directory / MODEL, disabled=["SkipLayerNormFusion"])
        self.output = self.session.get_outputs()[0].name
        # Only a graph of one vector per sequence reads their lengths.
        self.is_pooled = "lengths" in [each.name for each in self.session.get_inputs()]

    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> ModelOutput:
        """`logits`, or without a head `last_hidden_state`, as the model gives them; zeros for padding.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 1 for real tokens.
            token_type_ids: (B, T); None: zeros.
        """
        is_real = attention_mask.numpy().astype(bool)
        ids = input_ids.numpy()[is_real]
        types = np.zeros_like(ids) if token_type_ids is None else token_type_ids.numpy()[is_real]
        output = torch.from_numpy(self.run(is_real.sum(1), ids, types))
        if not self.is_pooled:
            rows = output.new_zeros(*is_real.shape, output.shape[-1])
            rows[torch.from_numpy(is_real)] = output
            output = rows
        return ModelOutput({self.output: output})

    def run(self, lengths: np.ndarray, input_ids: np.ndarray, token_type_ids: np.ndarray) -> np.ndarray:
        """The output for the tokens of all sequences, without padding.

        Args:
            lengths: number of tokens of each sequence (B).
            input_ids: the tokens (N).
            token_type_ids: their segments (N).

        Returns:
            (B, C) if it is pooled, else (N, C) or (N, E).
        """
        if not lengths.sum():
            # A graph cannot compute nothing: the result of one token is not used.
            alone = self.run(np.r_[lengths, 1], np.zeros(1, np.int64), np.zeros(1, np.int64))
            return alone[:-1]
        arrays = flat_arrays(self.config, lengths, self.is_pooled, input_ids, token_type_ids)
        return self.session.run(None, arrays)[0]


def load(directory: Path, config: PretrainedConfig) -> OnnxModel:
    """A graph that was written here. Raises ImportError if ONNX Runtime is not installed."""
    return OnnxModel(directory, config)


def open_session(path: Path, disabled: Sequence[str] = ()) -> "InferenceSession":
    """A session with torch's number of threads.

    Its threads do not wait actively for the next call: that would slow down tokenizing, and whatever runs next.

    Args:
        path: of the graph.
        disabled: optimizers of ONNX Runtime that are not used.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=[*disabled]
    )


def write(model: PreTrainedModel, directory: Path, int8: bool) -> None:
    """Write the graph of a model.

    Args:
        model: in float32, with attn_implementation="eager", in evaluation mode.
        directory: where it is written.
        int8: whether the weights of the stack become 8-bit integers; activations are quantized as they come.

    Raises:
        InputError: the model cannot be such a graph.
        ImportError: a package is missing.
    """
    check_model(model)
    ids = np.zeros(int(EXAMPLE_LENGTHS.sum()), np.int64)
    arrays = flat_arrays(model.config, EXAMPLE_LENGTHS, isinstance(model, ForSequenceClassification), ids, ids)
    graph = FlatGraph(model, list(arrays))
    with quiet_exporter():
        program = torch.onnx.export(
            graph,
            tuple(torch.from_numpy(array) for array in arrays.values()),
            input_names=list(arrays),
            output_names=["last_hidden_state" if isinstance(model, Stack) else "logits"],
            dynamo=True,
            dynamic_shapes=(dynamic_shapes(arrays),),
            verbose=False,
        )
    if not int8:
        program.save(directory / MODEL)
        return
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder, MODEL))
        with quiet_exporter():
            quantize(Path(folder, MODEL), directory / MODEL)


def quantize(path: Path, target: Path) -> None:
    """Write a graph with int8 weights in its blocks, one scale per column; embeddings and head stay in float32."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path, load_external_data=False).graph
    blocks = [node.name for node in graph.node if is_in_block(node)]
    quantize_dynamic(
        path,
        target,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # Before it quantizes, it turns each Gemm into a MatMul of this name.
        nodes_to_quantize=[*blocks, *(f"{name}_MatMul" for name in blocks)],
    )


def is_in_block(node: Any) -> bool:
    """Whether a node of the graph belongs to a block: torch's exporter records the modules of each node."""
    return any(SCOPES in entry.key and ".layers." in entry.value for entry in node.metadata_props)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Inside, torch's exporter and ONNX Runtime's quantizer do not report their steps."""
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
