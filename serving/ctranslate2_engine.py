"""The engine `ctranslate2`: CTranslate2 writes, in float32 or with int8 weights."""

import itertools
import logging
import math
from pathlib import Path
from typing import Any

import ctranslate2
import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from ..data.errors import InputError, RowError
from ..data.objects import read_object
from ..tasks.base import MAX_LOGITS
from .ctranslate2_spec import TABLE_LENGTH, build_spec, check_model

logger = logging.getLogger(__name__)

# A folder, because CTranslate2 has a config.json of its own.
FOLDER, GENERATION = "ctranslate2", "generation_config.json"
# The settings of generation that have an effect here.
READ = {
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "length_penalty"),
    *("no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("do_sample", "temperature", "top_k", "top_p", "early_stopping"),
    *("eos_token_id", "bos_token_id", "decoder_start_token_id"),
}
# Those that change no answer.
WITHOUT_EFFECT = {
    *("pad_token_id", "use_cache", "transformers_version", "cache_implementation"),
    *("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states"),
    *("num_return_sequences", "_from_model_config"),
    # CTranslate2 always does it.
    "renormalize_logits",
}
# A beam search ends when this many times the number of beams have ended. transformers ends when no beam can become
# better, unless `early_stopping` is set; then it is 1, as here.
PATIENCE = 4
# Those that forbid tokens.
FORBIDDING = ("suppress_tokens", "bad_words_ids", "no_repeat_ngram_size", "min_length", "min_new_tokens")
# Factors that change nothing if they are 1.
FACTORS = ("repetition_penalty", "encoder_repetition_penalty", "typical_p", "guidance_scale", "num_beam_groups")


class CTranslate2Model:
    """A model of CTranslate2 that writes.

    Args:
        directory: holds FOLDER and the settings of generation.
        config: configuration of the model.
    """

    device = torch.device("cpu")

    def __init__(self, directory: Path, config: PretrainedConfig):
        self.config = config
        self.generation_config = GenerationConfig.from_dict(read_object(directory / GENERATION))
        self.engine = open_engine(config, directory / FOLDER)

    @property
    def vocab_size(self) -> int:
        """The number of tokens that can be written."""
        return (self.config.decoder if self.config.is_encoder_decoder else self.config).vocab_size

    def write(self, inputs: dict[str, torch.Tensor], generation: dict[str, Any]) -> list[tuple[list[int], float]]:
        """The generated tokens of each row, and the geometric mean of their probabilities.

        Args:
            inputs: input_ids and attention_mask (B, T).
            generation: arguments of `generate`, which replace the model's own settings.

        Raises:
            InputError: CTranslate2 does not have the settings, or refuses a value.
            RowError: a row is too long.
        """
        settings = GenerationConfig.from_dict({**self.generation_config.to_dict(), **generation})
        check_generation(settings, self.config.is_encoder_decoder)
        rows = token_names(inputs)
        self.check_length(rows, most_tokens(settings, self.config.is_encoder_decoder))
        try:
            written, means = self.search(rows, settings)
        except (ValueError, RuntimeError) as error:  # CTranslate2 checks values only here
            raise InputError(f"generation_config: {error}") from error
        end = settings.forced_eos_token_id
        if end is not None:
            ends = set(map(str, ends_of(settings)))
            written = [row if row and row[-1] in ends else [*row, str(end)] for row in written]
        if changes_probabilities(settings):
            means = list(map(mean, self.log_probabilities(rows, written)))
        tokens = [[int(token) for token in row] for row in written]
        return list(zip(tokens, map(math.exp, means), strict=True))

    def search(self, rows: list[list[str]], settings: GenerationConfig) -> tuple[list[list[str]], list[float]]:
        """What is written for each source or prompt, with its end token; and the mean of the log-probabilities."""
        options, has_start = search_options(settings, self.vocab_size), self.config.is_encoder_decoder
        most = most_tokens(settings, has_start)
        if settings.forced_eos_token_id is not None:
            # The last token that fits is the end token.
            most = max(1, most - 1)
        least = min(least_tokens(settings, has_start), most)
        if self.config.is_encoder_decoder:
            first = settings.forced_bos_token_id
            prefix = [[] if first is None else [str(first)]] * len(rows)
            lengths = {"max_decoding_length": most, "min_decoding_length": least, "max_input_length": 0}
            results = self.engine.translate_batch(rows, prefix, **lengths, **options)
            written = [result.hypotheses[0] for result in results]
        else:
            results = self.continue_prompts(self.with_start(rows), max_length=most, min_length=least, **options)
            written = [result.sequences[0] for result in results]
        # CTranslate2 divides the sum of the log-probabilities by this power of the length.
        power = options["length_penalty"] - 1
        scores = (result.scores[0] for result in results)
        return written, [score * max(1, len(row)) ** power for score, row in zip(scores, written, strict=True)]

    def with_start(self, prompts: list[list[str]]) -> list[list[str]]:
        """The prompts, with a first token where a prompt is empty: CTranslate2 needs one."""
        return [row or [str(first_token(self.generation_config))] for row in prompts]

    def continue_prompts(self, rows: list[list[str]], **options: Any) -> list[Any]:
        """CTranslate2's result for each prompt, computed in batches of prompts of one length.

        In a batch of several lengths CTranslate2 counts the end of a longer prompt as written.
        """
        found: dict[int, Any] = {}
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for _, group in itertools.groupby(order, key=lambda index: len(rows[index])):
            indices = list(group)
            prompts = [rows[index] for index in indices]
            results = self.engine.generate_batch(prompts, include_prompt_in_result=False, **options)
            found |= zip(indices, results, strict=True)
        return [found[index] for index in range(len(rows))]

    def log_probabilities(self, rows: list[list[str]], written: list[list[str]]) -> list[list[float]]:
        """The logarithm of the probability of each written token.

        Args:
            rows: sources or prompts.
            written: what was written for each.
        """
        if self.config.is_encoder_decoder:
            # It scores an end token after each target, too.
            results = self.engine.score_batch(rows, written, **self.score_options())
            return [result.log_probs[: len(target)] for result, target in zip(results, written, strict=True)]
        rows = self.with_start(rows)
        texts = [[*row, *target] for row, target in zip(rows, written, strict=True)]
        results = self.engine.score_batch(texts, **self.score_options())
        return [result.log_probs[len(row) - 1 :] for result, row in zip(results, rows, strict=True)]

    def score_options(self) -> dict[str, Any]:
        """Batches with at most MAX_LOGITS logits, or of one row."""
        most = max(1, MAX_LOGITS // self.vocab_size)
        return {"max_input_length": 0, "max_batch_size": most, "batch_type": "tokens"}

    def check_length(self, rows: list[list[str]], most: int) -> None:
        """Raises RowError for a row with more tokens than there are positions."""
        parts = [self.config.encoder, self.config.decoder] if self.config.is_encoder_decoder else [self.config]
        for index, row in enumerate(rows):
            lengths = [len(row), most] if self.config.is_encoder_decoder else [len(row) + most]
            for part, length in zip(parts, lengths, strict=True):
                if length > positions_of(part):
                    raise RowError(index, f"needs {length} positions, and the model has {positions_of(part)}")


def open_engine(config: PretrainedConfig, directory: Path) -> Any:
    """A Translator or a Generator with torch's number of threads."""
    engine_class = ctranslate2.Translator if config.is_encoder_decoder else ctranslate2.Generator
    return engine_class(str(directory), device="cpu", intra_threads=torch.get_num_threads())


def positions_of(config: PretrainedConfig) -> float:
    """The number of positions of a stack in CTranslate2."""
    if config.position_type == "rotary" or config.relative_attention_num_buckets is not None:
        return math.inf
    positions = config.max_position_embeddings
    return positions if config.position_type == "learned" else max(positions, TABLE_LENGTH)


def token_names(inputs: dict[str, torch.Tensor]) -> list[list[str]]:
    """The real tokens of each row, by the names of `build_spec`."""
    rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
    return [list(map(str, ids[mask].tolist())) for ids, mask in rows]


def mean(log_probabilities: list[float]) -> float:
    """The mean; 0 of none."""
    return math.fsum(log_probabilities) / max(1, len(log_probabilities))


# --- The settings of generation ---


def search_options(settings: GenerationConfig, vocab_size: int) -> dict[str, Any]:
    """The options of CTranslate2 that follow from settings of generation, other than lengths."""
    # As in transformers, an end token is not suppressed as a bad word.
    bad_words = [words for words in settings.bad_words_ids or [] if words not in [[end] for end in ends_of(settings)]]
    suppressed = [[token] for token in settings.suppress_tokens or []] + bad_words
    options = {
        "beam_size": settings.num_beams or 1,
        "patience": 1 if settings.early_stopping is True else PATIENCE,
        "length_penalty": 1.0 if settings.length_penalty is None else settings.length_penalty,
        "no_repeat_ngram_size": settings.no_repeat_ngram_size or 0,
        "suppress_sequences": [list(map(str, sequence)) for sequence in suppressed] or None,
        "end_token": list(map(str, ends_of(settings))),
        "return_end_token": True,
        "return_scores": True,
    }
    if settings.do_sample:
        options |= {
            # CTranslate2 refuses more than there are.
            "sampling_topk": min(50 if settings.top_k is None else settings.top_k, vocab_size),
            "sampling_topp": 1.0 if settings.top_p is None else settings.top_p,
            "sampling_temperature": 1.0 if settings.temperature is None else settings.temperature,
        }
    return options


def changes_probabilities(settings: GenerationConfig) -> bool:
    """Whether the search reads other probabilities than the model's, because tokens are forced or suppressed."""
    forced = (settings.forced_bos_token_id, settings.forced_eos_token_id)
    return any(getattr(settings, name) for name in FORBIDDING) or any(token is not None for token in forced)


def ends_of(settings: GenerationConfig) -> list[int]:
    """The ids of the end tokens."""
    ends = settings.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def most_tokens(settings: GenerationConfig, has_start: bool) -> int:
    """The most tokens to write. With an encoder, `max_length` counts the start token, too.

    A decoder's max_length would count the prompt; prediction always gives max_new_tokens instead.
    """
    if settings.max_new_tokens is not None:
        return int(settings.max_new_tokens)
    return max(1, (20 if settings.max_length is None else settings.max_length) - has_start)


def least_tokens(settings: GenerationConfig, has_start: bool) -> int:
    """The fewest tokens to write before an end token."""
    least = settings.min_new_tokens or 0
    return max(least, (settings.min_length or 0) - 1) if has_start else least


def first_token(settings: GenerationConfig) -> int:
    """The token with which an empty prompt begins."""
    return next((token for token in (settings.bos_token_id, *ends_of(settings)) if token is not None), 0)


def has_effect(name: str, value: Any) -> bool:
    """Whether a setting of generation may change an answer: it is not off."""
    return bool(value) and not (name in FACTORS and value == 1)


def warn_of_beams(settings: GenerationConfig) -> None:
    """Log that beams are ranked by other probabilities than those of transformers, if they are."""
    names = [name for name in FORBIDDING if getattr(settings, name)]
    if names and (settings.num_beams or 1) > 1 and not settings.renormalize_logits:
        logger.warning(
            "generation_config: with %s, beams are ranked as transformers ranks them with renormalize_logits=True; "
            "without it, many answers differ",
            ", ".join(names),
        )


def check_generation(settings: GenerationConfig, has_encoder: bool) -> None:
    """Raises InputError for settings of generation that CTranslate2 does not have."""
    given = {name: value for name, value in settings.to_diff_dict().items() if has_effect(name, value)}
    unknown = sorted(name for name in given if name not in READ | WITHOUT_EFFECT)
    if settings.do_sample and (settings.num_beams or 1) > 1:
        unknown.append("do_sample with num_beams")
    if not ends_of(settings):
        unknown.append("a model without eos_token_id")
    # transformers counts the start token, CTranslate2 does not.
    if settings.no_repeat_ngram_size == 1:
        unknown.append("no_repeat_ngram_size=1")
    if not has_encoder:
        with_prompt = {
            "min_length": settings.min_length,
            "no_repeat_ngram_size": settings.no_repeat_ngram_size,
            "bad_words_ids of several tokens": [each for each in settings.bad_words_ids or [] if len(each) > 1],
        }
        unknown += [f"{name}, which reads the prompt" for name, is_given in with_prompt.items() if is_given]
    if unknown:
        raise InputError(f"generation_config: engine ctranslate2 does not have {', '.join(unknown)}")


# --- Files ---


def write(model: PreTrainedModel, directory: Path, int8: bool) -> None:
    """Write a model.

    Args:
        model: in float32.
        directory: where it is written.
        int8: whether weights become 8-bit integers, with a scale for each row.

    Raises:
        InputError: CTranslate2 cannot compute the model, or does not have its settings of generation.
    """
    check_model(model)
    settings = model.generation_config
    check_generation(settings, model.config.is_encoder_decoder)
    warn_of_beams(settings)
    first = first_token(settings)
    start = settings.decoder_start_token_id
    spec = build_spec(model, first if start is None else start)
    spec.validate()
    spec.optimize("int8" if int8 else "float32")
    (directory / FOLDER).mkdir()
    spec.save(str(directory / FOLDER))
    settings.save_pretrained(directory)


def load(directory: Path, config: PretrainedConfig) -> CTranslate2Model:
    """A model that was written here."""
    return CTranslate2Model(directory, config)
