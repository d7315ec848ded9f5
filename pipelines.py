"""Pipelines for sequence-to-sequence models: the tasks "text2text-generation" and "translation".

transformers 5 has removed them. These work for every model of AutoModelForSeq2SeqLM and return what `model.generate`
writes, in the format of transformers 4:

    pipeline("translation", "you/model")("jeudi 6 mars 2031")    [{"translation_text": "2031-03-06"}]
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, Pipeline, PreTrainedModel, PreTrainedTokenizerBase, pipelines

Answer = dict[str, str | torch.Tensor]


class Text2TextGenerationPipeline(Pipeline):
    """Generates text from text with `model.generate`.

    Args:
        model: an encoder-decoder that can generate.
        tokenizer: tokenizer of the inputs and outputs.
        kwargs: arguments of Pipeline; the others are defaults of the arguments of __call__.

    Raises:
        ValueError: the model cannot generate or is no encoder-decoder, or there is no tokenizer.
    """

    # Prefix of the keys of an answer.
    answer_prefix = "generated"
    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_feature_extractor = False

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, **kwargs: Any):
        if not (model.config.is_encoder_decoder and model.can_generate()):
            raise ValueError(f"model: {type(model).__name__} is not a model of AutoModelForSeq2SeqLM")
        if tokenizer is None:
            raise ValueError("tokenizer: there is none, and the pipeline needs one")
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def __call__(
        self, texts: str | Sequence[str] | Any, **kwargs: Any
    ) -> list[Answer] | list[list[Answer]] | Iterator[list[Answer]]:
        """Generate one or more answers for each text.

        Args:
            texts: a text; a list or another sequence of texts; or a dataset or generator of texts, which is read
                lazily.
            kwargs: `batch_size`: texts per batch; `truncation`: as in tokenizers; `return_tensors`: return token IDs
                instead of text; `clean_up_tokenization_spaces`; the rest goes to `model.generate`.

        Returns:
            An answer is `{"generated_text": …}`, or `{"generated_token_ids": …}` with a tensor (T); for the task
            "translation", the keys start with "translation". For one text, the list of its `num_return_sequences`
            answers. For a sequence of texts, one answer per text, or, with num_return_sequences above 1, a list of
            answers per text. For a dataset or generator, an iterator over the lists of answers.

        Raises:
            ValueError: an input is not a text, or has no tokens; an argument is unknown.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            return super().__call__(texts, **kwargs)
        # Pipeline treats a sequence that is not a list as one input, and reads the first item of an empty list.
        answers = super().__call__(list(texts), **kwargs) if len(texts) else []
        return [each for (each,) in answers] if all(len(each) == 1 for each in answers) else answers

    def _sanitize_parameters(
        self,
        truncation: bool | str | None = None,
        return_tensors: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The keyword arguments of preprocess, _forward and postprocess."""
        preprocess_kwargs = {"truncation": truncation}
        postprocess_kwargs = {
            "return_tensors": return_tensors,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
        }
        return not_none(preprocess_kwargs), generate_kwargs, not_none(postprocess_kwargs)

    def preprocess(self, text: str, truncation: bool | str = False) -> dict[str, torch.Tensor]:
        """Tokenize a text to tensors (1, S).

        Raises:
            ValueError: the input is not a text, or has no tokens.
        """
        if not isinstance(text, str):
            raise ValueError(f"{self.task}: an input must be a text, got {text!r}")
        encoded = self.tokenizer(text, truncation=truncation, return_token_type_ids=False)
        if not encoded["input_ids"]:
            raise ValueError(f"{self.task}: the text {text!r} has no tokens")
        return {name: torch.tensor([values]) for name, values in encoded.items()}

    def _forward(self, model_inputs: dict[str, torch.Tensor], **generate_kwargs: Any) -> dict[str, torch.Tensor]:
        """Token IDs of the answers, (B, num_return_sequences, T)."""
        output = self.model.generate(**model_inputs, **generate_kwargs)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        return {"sequences": sequences.unflatten(0, (len(model_inputs["input_ids"]), -1))}

    def postprocess(
        self,
        model_outputs: dict[str, torch.Tensor],
        return_tensors: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[Answer]:
        """Decode the answers to one text; model_outputs are the outputs of _forward for one row."""
        (sequences,) = model_outputs["sequences"]
        if return_tensors:
            return [{f"{self.answer_prefix}_token_ids": sequence} for sequence in sequences]
        texts = self.tokenizer.batch_decode(
            sequences, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
        )
        return [{f"{self.answer_prefix}_text": text} for text in texts]


class TranslationPipeline(Text2TextGenerationPipeline):
    """Text2TextGenerationPipeline with "translation" in the keys of the answers."""

    answer_prefix = "translation"


TASKS = {"text2text-generation": Text2TextGenerationPipeline, "translation": TranslationPipeline}


def not_none(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are not None, so that a call keeps the pipeline's defaults for the others."""
    return {name: value for name, value in arguments.items() if value is not None}


def register_pipelines() -> None:
    """Register TASKS with transformers.pipeline; a task that is registered already is not replaced.

    transformers rejects removed tasks before it looks into its registry: `if removed_task in REMOVED_TASKS` in
    pipelines._resolve_deprecated_task. 5.16 has no such table.
    """
    for task, pipeline_class in TASKS.items():
        if task in pipelines.PIPELINE_REGISTRY.supported_tasks:
            continue
        getattr(pipelines, "REMOVED_TASKS", {}).pop(task, None)
        pipelines.PIPELINE_REGISTRY.register_pipeline(
            task, pipeline_class, pt_model=AutoModelForSeq2SeqLM, type="text"
        )
