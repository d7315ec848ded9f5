"""Synthetic tasks: each measures one claim about attention and recurrence.

Most are N2N: a position has a label, or IGNORE. `found_elsewhere` and `evidence` are N21: a sequence has a label.
`reversal` is N2M, and `continuation` the same for a language model. Batches are drawn anew for each step.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..modeling.losses import IGNORE

# Tokens 0 to 2: padding, the start and the end of a target.
PAD, START, END = range(3)
FIRST = 3


@dataclass
class Batch:
    """Sequences of one length.

    Args:
        input_ids: (B, T).
        labels: (B, T), a class for each position, or IGNORE; of `reversal` the tokens of the target; of N21 (B), a
            class for each sequence.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Task:
    """A task whose difficulty is a number.

    Args:
        draw: makes a batch from a number, the number of sequences and a generator.
        train: the numbers that are trained on.
        test: the numbers that are tested.
        vocab_size: number of tokens.
        num_labels: number of classes.
        grows: whether the first half of training begins with the lowest numbers.
        counts_whole: whether a sequence counts as right only if all its labels are predicted.
        counts_last: how many of the last labels are tested; None: all.
        guess: the accuracy of the best guess without looking anything up, for a number; None: nearly none.
        guess_name: what the guess is called in the picture.
    """

    draw: Callable[[int, int, torch.Generator], Batch]
    train: tuple[int, ...]
    test: tuple[int, ...]
    vocab_size: int
    num_labels: int
    grows: bool = False
    counts_whole: bool = False
    counts_last: int | None = None
    guess: Callable[[int], float] | None = None
    guess_name: str = "guessing"


def integers(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Random whole numbers from `low` to `high` - 1."""
    return torch.randint(low, high, shape, generator=generator)


SLOTS, SYMBOLS, NOISES = 4, 32, 8


def recall(distance: int, rows: int, generator: torch.Generator, before: int = 0) -> Batch:
    """A symbol for each of four slots, noise, and the question for each slot, which symbol it had.

    The distance is that from the symbol of a slot to the question for it; `before` tokens of noise precede it all.
    """
    symbols = integers(0, SYMBOLS, (rows, SLOTS), generator)
    slots = torch.arange(SLOTS).expand(rows, SLOTS)
    first, noise = (
        integers(FIRST, FIRST + NOISES, (rows, number), generator) for number in (before, distance - SLOTS)
    )
    questions = FIRST + NOISES + slots
    input_ids = torch.cat((first, FIRST + NOISES + SLOTS + slots * SYMBOLS + symbols, noise, questions), dim=1)
    labels = torch.full_like(input_ids, IGNORE)
    labels[:, -SLOTS:] = symbols
    return Batch(input_ids, labels)


KEYS, VALUES = 32, 8


def associative_recall(pairs: int, rows: int, generator: torch.Generator) -> Batch:
    """So many pairs of a key and a value, then each key again, in another order, for the value that it had.

    Source: Arora et al. 2023 (Zoology), multi-query associative recall.
    """
    keys = torch.rand(rows, KEYS, generator=generator).argsort(-1)[:, :pairs]
    values = integers(0, VALUES, (rows, pairs), generator)
    order = torch.rand(rows, pairs, generator=generator).argsort(-1)
    written = torch.stack((FIRST + keys, FIRST + KEYS + values), dim=-1).flatten(1)
    input_ids = torch.cat((written, FIRST + keys.gather(1, order)), dim=1)
    labels = torch.full_like(input_ids, IGNORE)
    labels[:, 2 * pairs :] = values.gather(1, order)
    return Batch(input_ids, labels)


def most_frequent_value(pairs: int) -> float:
    """The accuracy of answering every key with the value that was written most often."""
    values = associative_recall(pairs, 4096, torch.Generator().manual_seed(0)).labels[:, 2 * pairs :]
    return (torch.nn.functional.one_hot(values, VALUES).sum(1).amax(-1) / pairs).mean().item()


def parity(length: int, rows: int, generator: torch.Generator) -> Batch:
    """Bits; at each position, whether the number of ones so far is odd."""
    bits = integers(0, 2, (rows, length), generator)
    return Batch(FIRST + bits, bits.cumsum(-1) % 2)


OFFSETS = (1, 2, 3, 4)
DIGITS = 4


def several_sides(length: int, rows: int, generator: torch.Generator) -> Batch:
    """Digits; at each position, which of the four digits before it are equal to it: one of sixteen answers."""
    digits = integers(0, DIGITS, (rows, length), generator)
    labels = torch.zeros_like(digits)
    for bit, offset in enumerate(OFFSETS):
        labels[:, offset:] += (digits[:, offset:] == digits[:, :-offset]).long() << bit
    labels[:, : max(OFFSETS)] = IGNORE
    return Batch(FIRST + digits, labels)


LETTERS = 16


def reversal(length: int, rows: int, generator: torch.Generator) -> Batch:
    """Letters, which the target has in reverse order."""
    letters = integers(FIRST, FIRST + LETTERS, (rows, length), generator)
    end = torch.full((rows, 1), END)
    return Batch(torch.cat((letters, end), dim=1), torch.cat((letters.flip(1), end), dim=1))


def continuation(length: int, rows: int, generator: torch.Generator) -> Batch:
    """A text for a language model: letters, a mark, and the letters in reverse order.

    The labels are the tokens after the mark.
    """
    pair = reversal(length, rows, generator)
    pair.input_ids[:, -1] = START
    return Batch(
        torch.cat((pair.input_ids, pair.labels), dim=1),
        torch.cat((torch.full_like(pair.input_ids, IGNORE), pair.labels), dim=1),
    )


PLACES, MARKS = 16, 4


def found_elsewhere(place: int, rows: int, generator: torch.Generator) -> Batch:
    """Noise, and two marks in a row from a place on: which are they, in order? The label is of the sequence."""
    input_ids = integers(FIRST, FIRST + NOISES, (rows, PLACES), generator)
    marks = integers(0, MARKS, (rows, 2), generator)
    input_ids[:, place : place + 2] = FIRST + NOISES + marks
    return Batch(input_ids, MARKS * marks[:, 0] + marks[:, 1])


STEPS_BACK = (0, 1, 2, 4, 8, 16)
QUESTIONED, DIGIT_VALUES = 32, 8


def neighbours(back: int, rows: int, generator: torch.Generator) -> Batch:
    """Digits, each of which asks which digit stood so many positions before.

    A token is a digit and the index of its question in STEPS_BACK. The tokens that ask for `back` have a label.
    """
    digits = integers(0, DIGIT_VALUES, (rows, QUESTIONED), generator)
    questions = integers(0, len(STEPS_BACK), (rows, QUESTIONED), generator)
    labels = digits.roll(back, dims=-1)
    labels[questions != STEPS_BACK.index(back)] = IGNORE
    labels[:, :back] = IGNORE
    return Batch(FIRST + digits * len(STEPS_BACK) + questions, labels)


STATES, KNOWN, CHAIN = 8, 0.6, 32


def markov_chain(future: int, rows: int, generator: torch.Generator) -> Batch:
    """A Markov chain; each position has the next state as its label.

    From state s it goes to s + 1 (modulo STATES) with the probability KNOWN, else to one of the others. So no more
    than KNOWN of the next states can be predicted from those before.

    Args:
        future: number of states after the last position with a label; 0: the input ends where the label is not known.
        rows: number of sequences.
        generator: of the random numbers.
    """
    length = CHAIN + future
    others = integers(2, STATES + 1, (rows, length + 1), generator)
    steps = torch.where(torch.rand(rows, length + 1, generator=generator) < KNOWN, 1, others)
    states = steps.cumsum(-1) % STATES
    labels = states[:, 1:].clone()
    labels[:, CHAIN:] = IGNORE
    return Batch(FIRST + states[:, :length], labels)


DISTANCES = (1, 2, 4, 8, 16, 32, 64)
CLUES = 32


def evidence(distance: int, rows: int, generator: torch.Generator) -> Batch:
    """[CLS] (the token START), noise, and one clue at a distance from it: which one? The label is of the sequence."""
    input_ids = integers(FIRST, FIRST + NOISES, (rows, 1 + max(DISTANCES)), generator)
    input_ids[:, 0] = START
    clues = integers(0, CLUES, (rows,), generator)
    input_ids[:, distance] = FIRST + NOISES + clues
    return Batch(input_ids, clues)


def both_sides(length: int, rows: int, generator: torch.Generator) -> Batch:
    """Digits; at each position, whether the digit before is equal to the digit after.

    It is for half of the positions, whatever stood before, so that the past alone says nothing about it.
    """
    is_equal = integers(0, 2, (rows, length), generator)
    # Each digit is that of two positions before plus a step, which is 0 where they are equal.
    steps = (1 - is_equal) * integers(1, DIGITS, (rows, length), generator)
    steps[:, :2] = integers(0, DIGITS, (rows, 2), generator)
    digits = steps.unflatten(-1, (-1, 2)).cumsum(-2).flatten(-2) % DIGITS
    labels = torch.full_like(digits, IGNORE)
    labels[:, 1:-1] = is_equal[:, 2:]
    return Batch(FIRST + digits, labels)


RECALL = Task(
    draw=recall,
    train=(4, 8, 12, 16, 24, 32, 48, 64, 96, 128),
    test=(4, 8, 16, 32, 64, 128),
    vocab_size=FIRST + NOISES + SLOTS + SLOTS * SYMBOLS,
    num_labels=SYMBOLS,
    grows=True,
    counts_whole=True,
)
ASSOCIATIVE = Task(
    draw=associative_recall,
    train=(1, 2, 4, 8, 16, 32),
    test=(1, 2, 4, 8, 16, 32),
    vocab_size=FIRST + KEYS + VALUES,
    num_labels=VALUES,
    guess=most_frequent_value,
)
PARITY = Task(
    draw=parity,
    train=tuple(range(4, 33, 4)),
    test=(8, 16, 32, 64, 128, 256),
    vocab_size=FIRST + 2,
    num_labels=2,
    grows=True,
    counts_last=8,
    guess=lambda length: 0.5,
)
SIDES = Task(
    draw=several_sides,
    train=(32,),
    test=(32,),
    vocab_size=FIRST + DIGITS,
    num_labels=2 ** len(OFFSETS),
    # None of the digits before is equal.
    guess=lambda length: (1 - 1 / DIGITS) ** len(OFFSETS),
)
REVERSAL = Task(
    draw=reversal,
    train=tuple(range(1, 41)),
    test=(5, 10, 15, 20, 25, 30, 40),
    vocab_size=FIRST + LETTERS,
    num_labels=LETTERS,
    grows=True,
    counts_whole=True,
)
SHORT_REVERSAL = replace(REVERSAL, train=tuple(range(1, 9)), test=(1, 2, 3, 4, 5, 6, 7, 8))
CONTINUATION = Task(
    draw=continuation,
    train=tuple(range(1, 13)),
    test=(2, 4, 6, 8, 10, 12, 16),
    vocab_size=FIRST + LETTERS,
    num_labels=LETTERS,
    counts_whole=True,
)
# Trained where both marks stand in the first half.
ELSEWHERE = Task(
    draw=found_elsewhere,
    train=tuple(range(PLACES // 2 - 1)),
    test=tuple(range(PLACES - 1)),
    vocab_size=FIRST + NOISES + MARKS,
    num_labels=MARKS**2,
    guess=lambda place: MARKS**-2,
)
NEIGHBOURS = Task(
    draw=neighbours,
    train=STEPS_BACK,
    test=STEPS_BACK,
    vocab_size=FIRST + DIGIT_VALUES * len(STEPS_BACK),
    num_labels=DIGIT_VALUES,
    guess=lambda back: 1 / DIGIT_VALUES,
)
MARKOV = Task(
    draw=markov_chain,
    train=(1,),
    test=(0, 1, 2, 4, 8),
    vocab_size=FIRST + STATES,
    num_labels=STATES,
    counts_last=1,
    guess=lambda future: KNOWN,
    guess_name="best possible from the past",
)
EVIDENCE = Task(
    draw=evidence,
    train=DISTANCES,
    test=DISTANCES,
    vocab_size=FIRST + NOISES + CLUES,
    num_labels=CLUES,
    guess=lambda distance: 1 / CLUES,
)
BOTH_SIDES = Task(
    draw=both_sides,
    train=(8, 16, 32),
    test=(8, 16, 32, 64, 128),
    vocab_size=FIRST + DIGITS,
    num_labels=2,
    guess=lambda length: 0.5,
    guess_name="best possible from the past",
)
