"""The claims of the lecture, and whether the figures bear them out."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import linregress, t

from .experiments import GRADIENT, WITH, WITHOUT, Figure
from .models import MIXERS
from .tasks import ASSOCIATIVE, PARITY, RECALL

RECURRENT = MIXERS[1:]
# Shares of sequences below and above which something is lost or kept. Guessing gives none.
LOST, KEPT = 0.05, 0.95


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Args:
        value: the mean.
        error: half the width of its 95 % interval (Student's t); nan of one seed.
    """

    value: float
    error: float


class Results:
    """The means of all figures.

    Args:
        figures: of all experiments and seeds.
    """

    def __init__(self, figures: Iterable[Figure]):
        values: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.parameters: dict[tuple[str, str], int] = {}
        for figure in figures:
            values[figure.experiment, figure.setting][figure.at].append(figure.value)
            self.parameters[figure.experiment, figure.setting] = figure.parameters
        self.means = {
            key: {at: mean_of(each) for at, each in sorted(by_number.items())} for key, by_number in values.items()
        }

    def settings(self, experiment: str) -> list[str]:
        """What an experiment compares, in the order of its figures."""
        return [setting for name, setting in self.means if name == experiment]

    def curve(self, experiment: str, setting: str) -> dict[float, Mean]:
        """The means by the number on the horizontal axis."""
        return self.means[experiment, setting]

    def value(self, experiment: str, setting: str, at: float) -> float:
        """A mean."""
        return self.means[experiment, setting][at].value

    def last(self, experiment: str, setting: str) -> float:
        """The mean at the largest number."""
        return [each.value for each in self.curve(experiment, setting).values()][-1]

    def slope(self, experiment: str, setting: str, low: float, high: float) -> float:
        """The slope in double-logarithmic axes between two numbers: 1 if twice the number is twice the value."""
        points = [(at, each.value) for at, each in self.curve(experiment, setting).items() if low <= at <= high]
        return linregress(*zip(*((math.log(at), math.log(value)) for at, value in points), strict=True)).slope


def mean_of(values: list[float]) -> Mean:
    """Mean and 95 % interval."""
    if len(values) < 2:
        return Mean(values[0], math.nan)
    return Mean(mean(values), t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values)))


@dataclass(frozen=True)
class Verdict:
    """Whether a claim came out.

    Args:
        came_out: whether it did.
        because: the figures that decide it.
    """

    came_out: bool
    because: str


@dataclass(frozen=True)
class Claim:
    """A claim of the lecture and its experiment.

    Args:
        numbers: of the claim in the lecture.
        experiment: whose figures test it.
        title: of the section.
        text: what is claimed, and how it is tested.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        is_logarithmic: whether the vertical axis is.
        judge: reads the figures.
        chance: the value of guessing, drawn as a line; None: there is none.
    """

    numbers: str
    experiment: str
    title: str
    text: str
    x: str
    y: str
    is_logarithmic: bool
    judge: Callable[[Results], Verdict]
    chance: float | None = None


def listed(results: Results, experiment: str, at: float | None = None, digits: int = 3) -> str:
    """The value of each setting, at a number or at the largest: `attention 0.99, rnn 0.12`."""
    values = {
        setting: results.last(experiment, setting) if at is None else results.value(experiment, setting, at)
        for setting in results.settings(experiment)
    }
    return ", ".join(f"{setting} {value:.{digits}g}" for setting, value in values.items())


def judge_step_time(results: Results) -> Verdict:
    slopes = {mixer: results.slope("step time", mixer, 16, 128) for mixer in results.settings("step time")}
    long = {mixer: results.slope("step time", mixer, 512, 2048) for mixer in slopes}
    because = (
        f"The slopes from 16 to 128 tokens are {', '.join(f'{name} {slope:.2f}' for name, slope in slopes.items())}; "
        f"from 512 to 2048 tokens {', '.join(f'{name} {slope:.2f}' for name, slope in long.items())}. "
        f"At 128 tokens a step takes {listed(results, 'step time', 128)} milliseconds, "
        f"at 2048 tokens {listed(results, 'step time', 2048)}."
    )
    return Verdict(all(slopes["attention"] < slopes[mixer] for mixer in RECURRENT), because)


def judge_gradient(experiment: str) -> Callable[[Results], Verdict]:
    """The judge of one of the two experiments on gradients."""

    def judge(results: Results) -> Verdict:
        near, far = min(RECALL.test), max(RECALL.test)
        values = {mixer: results.last(experiment, mixer) for mixer in results.settings(experiment)}
        left = listed(results, experiment, digits=2)
        because = f"At distance {far}, of the norm at distance {near} there is left: {left}."
        return Verdict(values["rnn"] < min(values["lstm"], values["attention"]), because)

    return judge


def judge_recall(results: Results) -> Verdict:
    lost = [
        at
        for at, each in results.curve("recall", "rnn").items()
        if each.value < LOST and results.value("recall", "lstm", at) > KEPT
    ]
    lowest = min(each.value for each in results.curve("recall", "attention").values())
    where = f"From distance {lost[0]:g} on" if lost else "At no distance that was measured"
    because = (
        f"{where} the plain RNN recalls less than {LOST:.0%} of the sequences while the LSTM recalls more than "
        f"{KEPT:.0%}; attention's lowest share is {lowest:.4f}. At the largest distance: {listed(results, 'recall')}."
    )
    return Verdict(bool(lost) and lowest > 0.99, because)


def judge_associative(results: Results) -> Verdict:
    experiment = "associative recall"
    values = {mixer: results.last(experiment, mixer) for mixer in results.settings(experiment)}
    because = f"With {max(ASSOCIATIVE.test)} pairs: {listed(results, experiment)}."
    return Verdict(values["attention"] > max(values[mixer] for mixer in RECURRENT), because)


def judge_heads(results: Results) -> Verdict:
    settings = results.settings("heads")
    values = [next(iter(results.curve("heads", setting).values())) for setting in settings]
    first, best = values[0], max(values, key=lambda each: each.value)
    errors = [0.0 if math.isnan(each.error) else each.error for each in (first, best)]
    because = f"Accuracy: {listed(results, 'heads')}."
    return Verdict(best.value - first.value > sum(errors), because)


def judge_cross_attention(results: Results) -> Verdict:
    experiment = "cross-attention"
    curves = {setting: list(results.curve(experiment, setting).items()) for setting in results.settings(experiment)}
    (short, first), (long, last) = curves[WITHOUT][0], curves[WITHOUT][-1]
    because = (
        f"From {short:g} to {long:g} letters, exact match goes from {first.value:.3f} to {last.value:.3f} with the "
        f"last state alone, and from {curves[WITH][0][1].value:.3f} to {curves[WITH][-1][1].value:.3f} with "
        "cross-attention."
    )
    return Verdict(last.value < first.value - 0.1 and last.value < curves[WITH][-1][1].value - 0.1, because)


def judge_parity(results: Results) -> Verdict:
    values = {mixer: results.last("parity", mixer) for mixer in results.settings("parity")}
    because = (
        f"At {max(PARITY.test)} bits, where at most {max(PARITY.train)} were trained: {listed(results, 'parity')}."
    )
    return Verdict(max(values[mixer] for mixer in RECURRENT) > values["attention"] + 0.1, because)


def judge_cache(results: Results) -> Verdict:
    growth = {
        mixer: results.last("cache", mixer) / next(iter(results.curve("cache", mixer).values())).value
        for mixer in results.settings("cache")
    }
    because = (
        f"From 16 to 2048 tokens it grows {', '.join(f'{name} {factor:g}' for name, factor in growth.items())} "
        f"times; at 2048 tokens it takes {listed(results, 'cache')} KiB."
    )
    return Verdict(growth["attention"] > 1 and all(growth[mixer] == 1 for mixer in RECURRENT), because)


CLAIMS = (
    Claim(
        "2, 3",
        "step time",
        "In order, or all at once",
        "An RNN reads step by step; attention does all of it at once. One training step, forward and backward, of one "
        "sequence and one block: while the sequence is short, attention's time hardly grows with the length, and "
        "that of a recurrent network grows with it. Attention's products grow with the square of the length (Vaswani "
        "et al. 2017, table 1), so that on few cores it loses its lead in the end. A CPU computes even all at once "
        "token after token, so that the difference is smaller than on a GPU.",
        "length in tokens",
        "milliseconds",
        True,
        judge_step_time,
    ),
    Claim(
        "2",
        GRADIENT[False],
        "Long-term dependency: the gradient before training",
        "What a token far back can teach a state is the gradient of the state with respect to it. In a plain RNN it "
        "vanishes with the distance (Hochreiter 1991; Bengio et al. 1994). Of the task of the section after the next: "
        "the gradient of the state at a question with respect to the symbol that it asks for.",
        "distance in tokens",
        "norm, of that at distance 4",
        True,
        judge_gradient(GRADIENT[False]),
    ),
    Claim(
        "2",
        GRADIENT[True],
        "Long-term dependency: the gradient after training",
        "The same, after the models have been trained to recall (next section).",
        "distance in tokens",
        "norm, of that at distance 4",
        True,
        judge_gradient(GRADIENT[True]),
    ),
    Claim(
        "2",
        "recall",
        "LSTM and GRU address it",
        "Four symbols, each in a slot of its own, then noise, then the question for each slot which symbol it had. A "
        "sequence counts if all four are right. The plain RNN forgets where LSTM and GRU still know (Hochreiter & "
        "Schmidhuber 1997), and to attention the distance is nothing. In the first half of training the distances "
        "grow, for all alike: without that, the plain RNN learns nothing.",
        "distance in tokens",
        "sequences recalled",
        False,
        judge_recall,
    ),
    Claim(
        "3, 5",
        "associative recall",
        "A query meets many keys",
        "Pairs of a key and a value, then each key again: which value did it have? A state of fixed size must hold "
        "all pairs; attention looks them up (Arora et al. 2023).",
        "pairs",
        "accuracy",
        False,
        judge_associative,
        1 / ASSOCIATIVE.num_labels,
    ),
    Claim(
        "7",
        "heads",
        "From many angles",
        "At each position: which of the four digits before it are equal to it? One block, of equal width, with one "
        "head or many: a head takes one mean, and of a mean it can hardly be told what came from where.",
        "digits",
        "accuracy",
        False,
        judge_heads,
    ),
    Claim(
        "10, 14",
        "cross-attention",
        "What ties encoder and decoder together",
        "LSTM encoder-decoders write the letters of the source in reverse order. With the last state alone (of both "
        "directions), the whole source must fit into it, and exact match falls with the length (Bahdanau et al. 2015, "
        "figure 2); with cross-attention each step looks where it needs to.",
        "source length in letters",
        "exact match",
        False,
        judge_cross_attention,
    ),
    Claim(
        "the other side",
        "parity",
        "Where recurrence wins: keeping a state",
        "At each position: is the number of ones so far odd? A state of one bit, updated at each step, solves it for "
        "any length; attention has no state and has to count, and fails at lengths that it was not trained on (Hahn "
        "2020).",
        "length in bits",
        "accuracy",
        False,
        judge_parity,
        0.5,
    ),
    Claim(
        "the other side",
        "cache",
        "Where recurrence wins: memory of a written token",
        "In generation, attention keeps the keys and values of all tokens; a recurrent network keeps its last state.",
        "tokens",
        "KiB of one sequence",
        True,
        judge_cache,
    ),
)
