"""The claims of the lecture that are measured, and whether the figures bear them out."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .experiments import AFTER, BEFORE, LEARNING, LENGTHS, SIZE, WITH, WITHOUT
from .models import MIXERS
from .results import Results, readable
from .tasks import ASSOCIATIVE, PARITY, RECALL, REVERSAL, most_frequent_value

RECURRENT = MIXERS[1:]
# What is at least right if something is solved, and at most if it is lost.
SOLVED, LOST = 0.99, 0.05
# A gradient that changes by less over all distances neither vanishes nor explodes.
LEAST_CHANGE = 10


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
    """A claim and its experiment.

    Args:
        numbers: of the claim in the lecture.
        experiment: whose figures test it.
        title: of the section.
        text: what is claimed, and how it is tested.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        judge: reads the figures.
        is_logarithmic: whether the vertical axis is.
        is_linear_x: whether the horizontal axis is linear, not logarithmic.
    """

    numbers: str
    experiment: str
    title: str
    text: str
    x: str
    y: str
    judge: Callable[[Results], Verdict]
    is_logarithmic: bool = False
    is_linear_x: bool = False


def listed(values: dict[str, float]) -> str:
    """`attention 0.99, rnn 0.12`."""
    return ", ".join(f"{setting} {readable(value)}" for setting, value in values.items())


def values_at(results: Results, experiment: str, at: float) -> dict[str, float]:
    """The mean of each setting at a number."""
    return {setting: results.curve(experiment, setting)[at].value for setting in results.settings(experiment)}


def judge_step_time(results: Results) -> Verdict:
    """Attention's slope at short lengths is below that of every recurrent network."""
    short, long = LENGTHS[: len(LENGTHS) // 2], LENGTHS[len(LENGTHS) // 2 :]
    slopes = {
        mixer: [results.slope("step time", mixer, lengths) for lengths in (short, long)]
        for mixer in results.settings("step time")
    }
    written = "; ".join(f"{mixer} {one:.2f}, then {two:.2f}" for mixer, (one, two) in slopes.items())
    because = (
        f"Slopes from {short[0]} to {short[-1]} tokens, then from {long[0]} to {long[-1]}: {written}. "
        f"Milliseconds at {short[-1]} tokens: {listed(values_at(results, 'step time', short[-1]))}; "
        f"at {long[-1]} tokens: {listed(values_at(results, 'step time', long[-1]))}."
    )
    return Verdict(all(slopes["attention"][0] < slopes[mixer][0] for mixer in RECURRENT), because)


def judge_gradient(experiment: str) -> Callable[[Results], Verdict]:
    """The judge of one of the two experiments on gradients."""

    def judge(results: Results) -> Verdict:
        factors = {mixer: results.factor(experiment, mixer) for mixer in results.settings(experiment)}
        near, far = min(RECALL.test), max(RECALL.test)
        # By what the norm changes over all distances, up or down.
        changes = {mixer: math.exp(abs(math.log(factor)) * (far - near)) for mixer, factor in factors.items()}
        because = (
            f"From distance {near} to {far} the norm changes at each step by the factor "
            f"{', '.join(f'{mixer} {factor:.4f}' for mixer, factor in factors.items())}; at {far} there is "
            f"{listed(values_at(results, experiment, far))} of it."
        )
        others = [changes["lstm"], changes["attention"]]
        return Verdict(changes["rnn"] > max(LEAST_CHANGE, *others), because)

    return judge


def judge_recall(results: Results) -> Verdict:
    """Where the plain RNN has lost everything, LSTM and GRU have not, and attention has nowhere."""
    curves = {mixer: results.curve("recall", mixer) for mixer in results.settings("recall")}
    lost = [at for at, each in curves["rnn"].items() if each.value < LOST]
    kept = bool(lost) and all(curves[mixer][at].value > SOLVED for mixer in ("lstm", "gru") for at in lost)
    lowest = min(each.value for each in curves["attention"].values())
    where = f"at distance {' and '.join(f'{at:g}' for at in lost)}" if lost else "at no distance"
    because = (
        f"The plain RNN recalls less than {LOST:.0%} of the sequences {where}; "
        f"attention's lowest share is {lowest:.4f}. At distance {max(RECALL.test)}: "
        f"{listed(values_at(results, 'recall', max(RECALL.test)))}."
    )
    return Verdict(kept and lowest > SOLVED, because)


def judge_associative(results: Results) -> Verdict:
    """All solve one pair; with the most pairs attention is above every recurrent network."""
    name = "associative recall"
    learnt = all(results.first(name, mixer).value > SOLVED for mixer in results.settings(name))
    better = all(results.last(name, "attention").is_above(results.last(name, mixer)) for mixer in RECURRENT)
    parts = [
        f"with {pairs} pairs {listed(values_at(results, name, pairs))} ({readable(most_frequent_value(pairs))})"
        for pairs in (ASSOCIATIVE.test[1], ASSOCIATIVE.test[-1])
    ]
    because = f"Accuracy, and in brackets that of the value that was written most often: {'; '.join(parts)}"
    return Verdict(learnt and better, f"{because}.")


def judge_heads(results: Results) -> Verdict:
    """The most heads are above one head."""
    settings = results.settings("heads")
    one, many = (results.last("heads", setting) for setting in (settings[0], settings[-1]))
    values = {setting: results.last("heads", setting).value for setting in settings}
    return Verdict(many.is_above(one), f"Accuracy: {listed(values)}.")


def judge_cross_attention(results: Results) -> Verdict:
    """Without it exact match falls with the length, and is below that with it in the end."""
    name = "cross-attention"
    without, with_it = (
        [function(name, setting) for function in (results.first, results.last)] for setting in (WITHOUT, WITH)
    )
    because = (
        f"From {min(REVERSAL.test)} to {max(REVERSAL.test)} letters exact match goes from {without[0].value:.3f} to "
        f"{without[1].value:.3f} with the last state alone, and from {with_it[0].value:.3f} to "
        f"{with_it[1].value:.3f} with cross-attention."
    )
    return Verdict(without[0].is_above(without[1]) and with_it[1].is_above(without[1]), because)


def judge_parity(results: Results) -> Verdict:
    """A recurrent network solves the longest sequences, and attention does not."""
    longest, trained = max(PARITY.test), max(PARITY.train)
    values = values_at(results, "parity", longest)
    solved = [mixer for mixer in RECURRENT if values[mixer] > SOLVED]
    because = (
        f"At {trained} bits, the longest that were trained: {listed(values_at(results, 'parity', trained))}; at "
        f"{longest} bits: {listed(values)}. It is solved there by {' and '.join(solved) if solved else 'none'}."
    )
    best = max((results.last("parity", mixer) for mixer in RECURRENT), key=lambda each: each.value)
    return Verdict(bool(solved) and best.is_above(results.last("parity", "attention")), because)


def judge_cache(results: Results) -> Verdict:
    """A token costs memory with attention alone."""
    first, last = LENGTHS[0], LENGTHS[-1]
    each_token = {
        mixer: (results.last("cache", mixer).value - results.first("cache", mixer).value) / (last - first)
        for mixer in results.settings("cache")
    }
    because = (
        f"KiB for each further token: {listed(each_token)}; in all at {last} tokens: "
        f"{listed(values_at(results, 'cache', last))}."
    )
    return Verdict(each_token["attention"] > 0 and all(each_token[mixer] == 0 for mixer in RECURRENT), because)


def setup(experiment: str) -> str:
    """How the models of an experiment are trained, in a sentence."""
    learning = LEARNING[experiment]
    layers = "1 layer" if learning.layers == 1 else f"{learning.layers} layers"
    grows = "; in the first half of training the numbers grow" if learning.task.grows else ""
    return (
        f"{layers} of {SIZE} features, {learning.steps} steps of {learning.rows} sequences, learning rate "
        f"{learning.learning_rate:g}{grows}."
    )


def gradient_claim(experiment: str, title: str, text: str) -> Claim:
    """One of the two claims on gradients."""
    return Claim(
        numbers="2",
        experiment=experiment,
        title=title,
        text=text,
        x="distance in tokens",
        y=f"norm, of that at distance {min(RECALL.test)}",
        judge=judge_gradient(experiment),
        is_logarithmic=True,
        is_linear_x=True,
    )


CLAIMS = (
    Claim(
        numbers="2, 3",
        experiment="step time",
        title="In order, or all at once",
        text="An RNN reads step by step; attention does all of it at once, with products that grow with the square "
        "of the length (Vaswani et al. 2017, table 1). One training step, forward and backward, of one sequence and "
        "one block, at equal width. On a CPU, too, what is done at once is computed piece by piece.",
        x="length in tokens",
        y="milliseconds",
        judge=judge_step_time,
        is_logarithmic=True,
    ),
    gradient_claim(
        BEFORE,
        "Long-term dependency: the gradient before training",
        "What a token far back can teach a state is the gradient of the state with respect to it. In a plain RNN "
        "it vanishes or explodes with the distance, exponentially (Hochreiter 1991; Bengio et al. 1994; Pascanu et "
        "al. 2013). Measured on the task of the section on recall: the gradient of the state at a question with "
        "respect to the symbol that it asks for.",
    ),
    gradient_claim(
        AFTER,
        "Long-term dependency: the gradient after training",
        "The same, after the models have been trained to recall. A norm that changes by less than "
        f"{LEAST_CHANGE} times over all distances neither vanishes nor explodes.",
    ),
    Claim(
        numbers="2",
        experiment="recall",
        title="LSTM and GRU address it",
        text="Four symbols, each in a slot of its own, then noise, then the question for each slot which symbol it "
        "had. A sequence counts if all four are right. The plain RNN forgets where LSTM and GRU still know "
        "(Hochreiter & Schmidhuber 1997), and attention sees every distance alike.",
        x="distance in tokens",
        y="sequences recalled",
        judge=judge_recall,
    ),
    Claim(
        numbers="3, 5",
        experiment="associative recall",
        title="A query meets many keys",
        text="Pairs of a key and a value, then each key again: which value did it have? Attention looks it up; a "
        "recurrent network must keep all pairs in a state of fixed size, and must learn to (Arora et al. 2023).",
        x="pairs",
        y="accuracy",
        judge=judge_associative,
    ),
    Claim(
        numbers="7",
        experiment="heads",
        title="From many angles",
        text="At each position: which of the four digits before it are equal to it? One block of equal width, with "
        "one head or many. A head takes one mean, and what came from where is hard to tell from a mean.",
        x="digits",
        y="accuracy",
        judge=judge_heads,
    ),
    Claim(
        numbers="10, 14",
        experiment="cross-attention",
        title="What ties encoder and decoder together",
        text="Encoder-decoders of LSTMs write the letters of the source in reverse order. With the last state alone "
        "(of both directions), the whole source must fit into it, and exact match falls with the length (Bahdanau et "
        "al. 2015, figure 2); with cross-attention each step looks where it needs to.",
        x="source length in letters",
        y="exact match",
        judge=judge_cross_attention,
    ),
    Claim(
        numbers="the other side",
        experiment="parity",
        title="Where recurrence wins: keeping a state",
        text="At each position: is the number of ones so far odd? A state of one bit that is updated at each step "
        "solves it for any length; attention has no such state (Hahn 2020). The last eight positions are tested.",
        x="length in bits",
        y="accuracy",
        judge=judge_parity,
    ),
    Claim(
        numbers="the other side",
        experiment="cache",
        title="Where recurrence wins: memory of a written token",
        text="In generation, attention keeps the keys and values of all tokens; a recurrent network keeps its last "
        "state. The tensors of the cache of one sequence, after a forward pass.",
        x="tokens",
        y="KiB",
        judge=judge_cache,
        is_logarithmic=True,
    ),
)
LOGARITHMIC = [claim.experiment for claim in CLAIMS if claim.is_logarithmic]
