"""Every loss equals one computed by hand, is divided by its targets, and does not depend on how a batch is cut."""

import itertools

import pytest
import reference
import torch
from conftest import (
    DENSE,
    HEADS,
    LABELS,
    assert_close,
    assert_equal_gradients,
    draw,
    every_head,
    gradients,
    named,
    padded,
    tiny_model,
)

from seqblend import (
    BlendDecoderConfig,
    BlendDecoderForCausalLM,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForMaskedLM,
)
from seqblend.configuration.checks import PROBLEM_TYPES
from seqblend.modeling.losses import SEQUENCE_LOSSES, token_loss

LENGTHS = [7, 3, 5]
WEIGHTS = [0.5, 2.0, 1.5]
CLASSIFIERS = [model_class for model_class in HEADS if "SequenceClassification" in model_class.__name__]
LANGUAGE_MODELS = [model_class for model_class in HEADS if model_class.__name__.endswith("LM")]
SINGLE, SEVERAL, REGRESSION = PROBLEM_TYPES

# Training options, where they mean something: a language model has no weights for classes.
OPTIONS = [
    {},
    {"label_smoothing": 0.3},
    {"class_weights": WEIGHTS},
    {"label_smoothing": 0.3, "class_weights": WEIGHTS},
]
# Heads with each problem type they have, and each with its options.
TASKS = [
    *((model_class, None) for model_class in HEADS if model_class not in CLASSIFIERS),
    *((model_class, problem_type) for model_class in CLASSIFIERS for problem_type in PROBLEM_TYPES),
]
CASES = [
    (model_class, problem_type, options)
    for model_class, problem_type in TASKS
    for options in OPTIONS
    if "class_weights" not in options or (model_class not in LANGUAGE_MODELS and problem_type != REGRESSION)
]
every_case = pytest.mark.parametrize("model_class, problem_type, options", CASES, ids=named)
# Of each head without options, and with all that it has.
LAST = {case[:2]: case for case in CASES}
PLAIN_AND_RICHEST = [case for case in CASES if not case[2] or case is LAST[case[:2]]]


def with_labels(rows: list[dict[str, torch.Tensor]], problem_type: str | None) -> list[dict[str, torch.Tensor]]:
    """The rows with labels for the problem type; of several labels, some are unknown."""
    for index, row in enumerate(rows):
        if problem_type == SEVERAL:
            row["labels"] = torch.randint(2, (1, LABELS)).float()
            row["labels"][0, index % LABELS] = -100
        elif problem_type == REGRESSION:
            row["labels"] = torch.randn(1, LABELS)
    return rows


def by_hand(logits: torch.Tensor, labels: torch.Tensor, problem_type: str | None, **options) -> torch.Tensor:
    """The loss of logits and labels of whatever shape."""
    if problem_type == SEVERAL:
        loss = reference.binary_cross_entropy(logits, labels, **options)
    elif problem_type == REGRESSION:
        loss = reference.squared_error(logits, labels, items=options["items"])
    else:
        loss = reference.cross_entropy(logits.flatten(0, -2), labels.flatten(), **options)
    return torch.tensor(loss, dtype=torch.float64)


@every_case
def test_loss_is_that_by_hand(model_class, problem_type, options):
    """On the model's own logits, in training and not, with the number of items counted and given.

    Only a causal model's labels are shifted, and once; options act in training only.
    """
    model = tiny_model(model_class, problem_type=problem_type, **options)
    batch = padded(with_labels(draw(model_class, LENGTHS), problem_type))
    logits, labels = model(**batch).logits, batch["labels"]
    if model_class is BlendDecoderForCausalLM:
        logits, labels = logits[:, :-1], labels[:, 1:]
    for train, items in itertools.product((True, False), (None, 37)):
        acting = options if train else {}
        smoothing, weights = acting.get("label_smoothing", 0.0), acting.get("class_weights")
        expected = by_hand(logits, labels, problem_type, smoothing=smoothing, weights=weights, items=items)
        for given in {None: [None], 37: [37, torch.tensor(37)]}[items]:
            loss = model.train(train)(**batch, num_items_in_batch=given).loss
            assert_close(loss, expected, what=f"train={train}, items={given}:")


@pytest.mark.parametrize("model_class", CLASSIFIERS, ids=named)
@pytest.mark.parametrize(
    "labels", [torch.tensor([0.5, -1.5, 2]), torch.tensor([[3], [1], [2]])], ids=["row", "column"]
)
def test_regression_of_one_number(model_class, labels):
    model = tiny_model(model_class, num_labels=1)
    batch = padded(draw(model_class, LENGTHS, labels=False))
    expected = by_hand(model(**batch).logits, labels, REGRESSION, items=None)
    assert_close(model(**batch, labels=labels).loss, expected)


@pytest.mark.parametrize("shape", [(LABELS, 2), (2 * LABELS,), (LABELS,), (2, 1)], ids=str)
def test_numbers_of_another_shape_are_refused(shape):
    """Those of one row would be those of another."""
    model = tiny_model(CLASSIFIERS[0], problem_type=REGRESSION)
    with pytest.raises(ValueError, match=f"labels of a regression must have shape .2, {LABELS}., got"):
        model(torch.tensor([[3, 4], [5, 6]]), labels=torch.ones(shape))


@pytest.mark.parametrize("model_class, problem_type", [task for task in TASKS if REGRESSION not in task], ids=named)
def test_no_target_is_no_loss(model_class, problem_type):
    """0 and not NaN, and a gradient of zeros: in training and not, with their number counted and given."""
    model = tiny_model(model_class, problem_type=problem_type)
    batch = padded(draw(model_class, LENGTHS))
    batch["labels"][:] = -100
    if problem_type == SEVERAL:
        batch["labels"] = torch.full((len(LENGTHS), LABELS), -100.0)
    for train, items in itertools.product((True, False), (None, 0, torch.tensor(0))):
        model.zero_grad()
        loss = model.train(train)(**batch, num_items_in_batch=items).loss
        assert loss == 0, (train, items)
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or (parameter.grad == 0).all(), (train, items, name)


@every_head
def test_ignored_labels_have_no_gradient(model_class):
    """The loss of a row whose labels are all ignored is that of the others, and divided by their number."""
    model = tiny_model(model_class).train()
    rows = draw(model_class, LENGTHS)
    some = padded(rows)
    some["labels"][1] = -100
    others = padded([rows[0], rows[2]])
    assert_close(model(**some).loss, model(**others).loss)
    assert_equal_gradients(gradients(model, some), gradients(model, others))


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(problem_type, dtype):
    config = tiny_model(CLASSIFIERS[0], label_smoothing=0.1).config
    logits = torch.randn(300, LABELS).to(dtype)
    labels = {
        SINGLE: torch.randint(LABELS, (300,)),
        SEVERAL: torch.randint(2, (300, LABELS)).float(),
        REGRESSION: torch.randn(300, LABELS),
    }[problem_type]
    loss = SEQUENCE_LOSSES[problem_type](logits, labels, config, training=True)
    expected = SEQUENCE_LOSSES[problem_type](logits.double(), labels, config, training=True)
    assert loss.dtype == torch.float32
    assert_close(loss.double(), expected, 1e-6)


@every_head
def test_loss_in_bfloat16(model_class):
    """A model in bfloat16, and one under autocast, have a loss in float32 close to the exact one."""
    batch = padded(draw(model_class, LENGTHS))
    expected = tiny_model(model_class, initializer_range=0.1)(**batch).loss
    half = tiny_model(model_class).to(torch.bfloat16)
    assert half(**batch).loss.dtype == torch.float32
    assert_close(half(**batch).loss.double(), expected, 0.1)
    single = tiny_model(model_class).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = single(**batch).loss
    assert loss.dtype == torch.float32
    assert_close(loss.double(), expected, 0.1)
    loss.backward()


def test_seq2seq_reads_the_labels_shifted_by_one():
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM, decoder_start_token_id=7, pad_token_id=5)
    labels = torch.tensor([[11, 12, 13], [14, -100, 15], [16, -100, -100]])
    shifted = torch.tensor([[7, 11, 12], [7, 14, 5], [7, 16, 5]])
    before = labels.clone()
    assert torch.equal(model.prepare_decoder_input_ids_from_labels(labels), shifted)
    assert torch.equal(labels, before)
    source = padded(draw(BlendEncoderDecoderForSeq2SeqLM, LENGTHS, labels=False))
    source = {name: source[name] for name in ("input_ids", "attention_mask")}
    output = model(**source, labels=labels)
    expected = model(**source, labels=labels, decoder_input_ids=shifted)
    assert torch.equal(output.loss, expected.loss)


@pytest.mark.parametrize("asked", [{}, DENSE], ids=["flat", "dense"])
def test_first_token_is_no_target(asked):
    """Nothing stands before it: not in a row that is padded on the left either."""
    model = tiny_model(BlendDecoderForCausalLM).train()
    rows = draw(BlendDecoderForCausalLM, LENGTHS)
    for row in rows:
        row["labels"] = row["input_ids"]
    alone = sum(model(**padded([row]), num_items_in_batch=1).loss for row in rows)
    for side in ("right", "left"):
        assert_close(model(**padded(rows, side), **asked, num_items_in_batch=1).loss, alone, what=side)


PER_TOKEN = [each for each in HEADS if each not in (*CLASSIFIERS, BlendEncoderDecoderForSeq2SeqLM)]


@pytest.mark.parametrize("model_class", PER_TOKEN, ids=named)
@pytest.mark.parametrize("asked", [{}, DENSE], ids=["flat", "dense"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_labels_of_padding_do_not_count(model_class, asked, side):
    """Also where they are not -100, as in labels that are a copy of input_ids."""
    model = tiny_model(model_class)
    batch = padded(draw(model_class, LENGTHS), side)
    expected = model(**batch, **asked).loss
    batch["labels"] = batch["labels"].where(batch["attention_mask"].bool(), 1)
    assert_close(model(**batch, **asked).loss, expected)


def test_loss_knows_what_the_trainer_counts():
    """Labels are shifted only for a class whose loss_type says so to the Trainer, which then leaves out the first."""
    kinds = {model_class: tiny_model(model_class).loss_type for model_class in LANGUAGE_MODELS}
    assert kinds == {
        BlendEncoderForMaskedLM: "ForMaskedLM",
        BlendDecoderForCausalLM: "ForCausalLM",
        BlendEncoderDecoderForSeq2SeqLM: "ForMaskedLM",
    }


@pytest.mark.parametrize("model_class, problem_type, options", PLAIN_AND_RICHEST, ids=named)
def test_accumulated_gradients_are_those_of_one_batch(model_class, problem_type, options):
    """A batch of 8 rows against two of 4 whose gradients are added."""
    model = tiny_model(model_class, problem_type=problem_type, **options).train()
    rows = with_labels(draw(model_class, [9, 2, 6, 12, 1, 3, 8, 5]), problem_type)
    whole, parts = padded(rows), [padded(rows[:4]), padded(rows[4:])]
    # As Trainer._get_num_items_in_batch counts.
    first = 1 if model.loss_type == "ForCausalLM" else 0
    items = sum((part["labels"][..., first:] != -100).sum() for part in parts)
    expected = {name: gradient.clone() for name, gradient in gradients(model, whole, num_items_in_batch=items).items()}
    model.zero_grad()
    for part in parts:
        model(**part, num_items_in_batch=items).loss.backward()
    accumulated = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_equal_gradients(accumulated, expected)
    assert_equal_gradients(gradients(model, whole), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8])
def test_labels_are_whole_numbers_of_any_dtype(dtype):
    """As NumPy has them; those of half a class are refused."""
    config, logits, labels = BlendDecoderConfig(), torch.randn(4, 3), torch.tensor([2, -100, 0, 1])
    assert torch.equal(token_loss(logits, labels.to(dtype), config, False), token_loss(logits, labels, config, False))
    with pytest.raises(RuntimeError):
        token_loss(logits, labels.float(), config, False)


def test_token_loss_of_nothing():
    """A masked language model in training may have no masked token at all."""
    config = tiny_model(BlendEncoderForMaskedLM).config
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = token_loss(logits, torch.zeros(0, dtype=torch.long), config, training=True)
    assert loss == 0
    loss.backward()
