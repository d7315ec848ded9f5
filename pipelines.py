"""Sequence to sequence in transformers' pipelines: the tasks "text2text-generation" and "translation".

transformers 5 has dropped them. Here they are for every model of AutoModelForSeq2SeqLM, and answer as they did in
transformers 4:

    pipeline("translation", "you/model")("jeudi 6 mars 2031")    [{"translation_text": "2031-03-06"}]
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, Pipeline, PreTrainedModel, PreTrainedTokenizerBase, pipelines

Answer = dict[str, str | torch.Tensor]


class Text2TextGenerationPipeline(Pipeline):
    """Writes a text from a text, as `model.generate` does.

    Args:
        model: one that generates, and reads by an encoder.
        tokenizer: of what it reads and writes.
        kwargs: those of Pipeline; what is left is for every call.

    Raises:
        ValueError: the model is another, or there is no tokenizer.
    """

    # What the names in an answer begin with.
    written = "generated"
    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_feature_extractor = False

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, **kwargs: Any):
        if not (model.config.is_encoder_decoder and model.can_generate()):
            raise ValueError(f"model: {type(model).__name__} is none of AutoModelForSeq2SeqLM")
        if tokenizer is None:
            raise ValueError("tokenizer: there is none, and the model reads no text without")
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def __call__(
        self, texts: str | Sequence[str] | Any, **kwargs: Any
    ) -> list[Answer] | list[list[Answer]] | Iterator[list[Answer]]:
        """Write a text, or several, from each text.

        Args:
            texts: a text; a list or another sequence of texts; or a data set or a generator of them, which is read
                bit by bit.
            kwargs: `batch_size`: texts that are read together; `truncation`: as tokenizers have it; `return_tensors`:
                answer by tokens in place of texts; `clean_up_tokenization_spaces`; the rest is for `model.generate`.

        Returns:
            Of one text the answers, as many as `num_return_sequences`; each is `{"generated_text": …}`, or
            `{"generated_token_ids": …}` with a tensor (T); "translation" in place of "generated" under that task. Of
            several texts the one answer of each, or, if there are more, a list for each. Of a data set or a generator
            an iterator over such lists, of however many answers.

        Raises:
            ValueError: what is to be read is no text, or has no tokens; an argument is unknown.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            return super().__call__(texts, **kwargs)
        # Pipeline asks what the first of them is, and takes sequences other than lists for one input.
        answers = super().__call__(list(texts), **kwargs) if len(texts) else []
        return [each for (each,) in answers] if all(len(each) == 1 for each in answers) else answers

    def _sanitize_parameters(
        self,
        truncation: bool | str | None = None,
        return_tensors: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """What a call says, for each of the three steps."""
        reading = {"truncation": truncation}
        answering = {
            "return_tensors": return_tensors,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
        }
        return given(reading), generate_kwargs, given(answering)

    def preprocess(self, text: str, truncation: bool | str = False) -> dict[str, torch.Tensor]:
        """Tokens of a text, (1, S).

        Raises:
            ValueError: it is none, or has no tokens.
        """
        if not isinstance(text, str):
            raise ValueError(f"{self.task}: an input must be a text, got {text!r}")
        encoded = self.tokenizer(text, truncation=truncation, return_token_type_ids=False)
        if not encoded["input_ids"]:
            raise ValueError(f"{self.task}: the text {text!r} has no tokens")
        return {name: torch.tensor([values]) for name, values in encoded.items()}

    def _forward(self, model_inputs: dict[str, torch.Tensor], **generate_kwargs: Any) -> dict[str, torch.Tensor]:
        """Tokens of the answers, (B, answers of each, T)."""
        output = self.model.generate(**model_inputs, **generate_kwargs)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        return {"sequences": sequences.unflatten(0, (len(model_inputs["input_ids"]), -1))}

    def postprocess(
        self,
        model_outputs: dict[str, torch.Tensor],
        return_tensors: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[Answer]:
        """The answers to one text; model_outputs are those of _forward, of one row."""
        (sequences,) = model_outputs["sequences"]
        if return_tensors:
            return [{f"{self.written}_token_ids": sequence} for sequence in sequences]
        texts = self.tokenizer.batch_decode(
            sequences, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
        )
        return [{f"{self.written}_text": text} for text in texts]


class TranslationPipeline(Text2TextGenerationPipeline):
    """Writes a text from a text, and calls that a translation."""

    written = "translation"


TASKS = {"text2text-generation": Text2TextGenerationPipeline, "translation": TranslationPipeline}


def given(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are not None: a call leaves what was said before as it is."""
    return {name: value for name, value in arguments.items() if value is not None}


def register_pipelines() -> None:
    """Make transformers.pipeline know TASKS; one that it knows already stays what it is.

    transformers refuses the names by a table of their own before it asks its registry: `if removed_task in
    REMOVED_TASKS` of pipelines._resolve_deprecated_task. 5.16 has no such table.
    """
    for task, pipeline_class in TASKS.items():
        if task in pipelines.PIPELINE_REGISTRY.supported_tasks:
            continue
        getattr(pipelines, "REMOVED_TASKS", {}).pop(task, None)
        pipelines.PIPELINE_REGISTRY.register_pipeline(
            task, pipeline_class, pt_model=AutoModelForSeq2SeqLM, type="text"
        )
