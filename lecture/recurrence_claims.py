"""The claims on what came before attention: feed-forward and recurrent networks, and where recurrence wins."""

import math
from collections.abc import Callable

from .experiments import AFTER, BEFORE, SLOTWISE
from .results import Results, readable
from .tasks import ELSEWHERE, MARKS, PARITY, PLACES, RECALL
from .untrained import LENGTHS
from .verdicts import AS_GUESSING, LOST, RECURRENT, SOLVED, Claim, Verdict, highest, listed, lowest, values_at

# A gradient that changes by less over all distances neither vanishes nor explodes.
LEAST_CHANGE = 10


def judge_another_place(results: Results) -> Verdict:
    """The feed-forward network learns the places of training, and guesses at others, where all others are above it."""
    name, new = "another place", range(PLACES // 2, PLACES - 1)
    known = lowest(results, name, SLOTWISE, ELSEWHERE.train)
    guessed = highest(results, name, SLOTWISE, new)
    networks = ("attention", *RECURRENT)
    others = {mixer: lowest(results, name, mixer, new) for mixer in networks}
    curves = {setting: results.curve(name, setting) for setting in (SLOTWISE, *networks)}
    are_above = all(curves[mixer][place].is_above(curves[SLOTWISE][place]) for mixer in networks for place in new)
    because = (
        f"At the positions of training, the lowest accuracy of the feed-forward network is {readable(known)}. In the "
        f"second half of the sequence, its highest accuracy is {readable(guessed)} (guessing: {readable(MARKS**-2)}), "
        f"and the lowest accuracy of the others is: {listed(others)}."
    )
    return Verdict(known > SOLVED and guessed < AS_GUESSING * MARKS**-2 and are_above, because)


def judge_step_time(results: Results) -> Verdict:
    """Attention's slope at short lengths is below that of every recurrent network."""
    short, long = LENGTHS[: len(LENGTHS) // 2], LENGTHS[len(LENGTHS) // 2 :]
    slopes = {
        mixer: [results.slope("step time", mixer, lengths) for lengths in (short, long)]
        for mixer in results.settings("step time")
    }
    written = "; ".join(f"{mixer} {one:.2f} and {two:.2f}" for mixer, (one, two) in slopes.items())
    because = (
        f"Slopes of the curves (1 if twice the length takes twice the time) from {short[0]} to {short[-1]} tokens and "
        f"from {long[0]} to {long[-1]} tokens: {written}. "
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
            f"From distance {near} to {far}, the norm changes with each token by the factor: "
            f"{', '.join(f'{mixer} {factor:.4f}' for mixer, factor in factors.items())}. Norm at distance {far}, "
            f"divided by that at distance {near}: {listed(values_at(results, experiment, far))}."
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
        f"The plain RNN recalls less than {LOST:.0%} of the sequences {where}. The lowest share of attention is "
        f"{lowest:.4f}. Share at distance {max(RECALL.test)}: "
        f"{listed(values_at(results, 'recall', max(RECALL.test)))}."
    )
    return Verdict(kept and lowest > SOLVED, because)


def judge_parity(results: Results) -> Verdict:
    """A recurrent network solves the longest sequences, and attention does not."""
    longest, trained = max(PARITY.test), max(PARITY.train)
    values = values_at(results, "parity", longest)
    solved = [mixer for mixer in RECURRENT if values[mixer] > SOLVED]
    because = (
        f"Accuracy for {trained} bits, the longest training length: {listed(values_at(results, 'parity', trained))}; "
        f"for {longest} bits: {listed(values)}. Solved for {longest} bits by: {', '.join(solved) or 'none'}."
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
        f"KiB for each additional token: {listed(each_token)}. KiB in total after {last} tokens: "
        f"{listed(values_at(results, 'cache', last))}."
    )
    return Verdict(each_token["attention"] > 0 and all(each_token[mixer] == 0 for mixer in RECURRENT), because)


def gradient_claim(experiment: str, title: str, text: str) -> Claim:
    """One of the two claims on gradients."""
    return Claim(
        numbers="2",
        experiment=experiment,
        title=title,
        text=text,
        x="distance in tokens",
        y=f"norm / norm at distance {min(RECALL.test)}",
        judge=judge_gradient(experiment),
        is_logarithmic=True,
        is_linear_x=True,
    )


RECURRENCE_CLAIMS = (
    Claim(
        numbers="1",
        experiment="another place",
        title="One input, one output",
        text=f"A sequence has two marks, one after the other, somewhere among {PLACES - 2} tokens of noise; the model "
        "tells which marks they are, in order. In training the marks are in the first half of the sequence. The "
        "feed-forward network reads the sequence as one input of a fixed size: each position has its own weights, so "
        "what is learnt at one position must be learnt again at every other position. Recurrent networks and "
        "attention (encoders, which classify the mean of all token vectors) use the same weights for every token.",
        x="position of the first mark",
        y="accuracy",
        judge=judge_another_place,
        is_linear_x=True,
    ),
    Claim(
        numbers="2, 3",
        experiment="step time",
        title="In order, or all at once",
        text="An RNN reads step by step. Attention processes all positions at once, but the cost of its products "
        "grows with the square of the length (Vaswani et al. 2017, table 1). Measured: one training step, forward and "
        "backward, of one sequence and one block, at equal width. A CPU computes even parallel operations piece by "
        "piece.",
        x="length in tokens",
        y="milliseconds",
        judge=judge_step_time,
        is_logarithmic=True,
    ),
    gradient_claim(
        BEFORE,
        "Long-term dependency: the gradient before training",
        "How much a state can learn from a distant token is given by the gradient of the state with respect to this "
        "token. In a plain RNN, this gradient vanishes or explodes exponentially with the distance (Hochreiter 1991; "
        "Bengio et al. 1994; Pascanu et al. 2013). Measured on the task of the section [LSTM and GRU address "
        "it](#lstm-and-gru-address-it): the norm of the gradient of the state at a question with respect to the "
        "symbol that the question asks for.",
    ),
    gradient_claim(
        AFTER,
        "Long-term dependency: the gradient after training",
        "The same gradient, after the models have been trained on the task. If the norm changes by a factor of less "
        f"than {LEAST_CHANGE} over all distances, the gradient neither vanishes nor explodes.",
    ),
    Claim(
        numbers="2",
        experiment="recall",
        title="LSTM and GRU address it",
        text="A sequence has four slots with one symbol each, then noise, then one question for each slot: which "
        "symbol did it have? A sequence counts as right only if all four answers are right. LSTM and GRU still recall "
        "the symbols at distances at which the plain RNN has forgotten them (Hochreiter & Schmidhuber 1997). For "
        "attention, all distances are alike.",
        x="distance in tokens",
        y="sequences recalled",
        judge=judge_recall,
    ),
)
CLAIMS_FOR_RECURRENCE = (
    Claim(
        numbers="for recurrence",
        experiment="parity",
        title="Where recurrence wins: keeping a state",
        text="At each position: is the number of ones so far odd? A state of one bit that is updated at each step "
        "solves this for any length; attention has no such state (Hahn 2020). Only the last eight positions are "
        "tested.",
        x="length in bits",
        y="accuracy",
        judge=judge_parity,
    ),
    Claim(
        numbers="for recurrence",
        experiment="cache",
        title="Where recurrence wins: memory of a written token",
        text="In generation, attention stores the keys and values of all tokens; a recurrent network stores only its "
        "last state. Measured: the size of the tensors in the cache of one sequence, after a forward pass.",
        x="tokens",
        y="KiB",
        judge=judge_cache,
        is_logarithmic=True,
    ),
)
