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
        f"The lowest accuracy of the feed-forward network at a place that was trained is {readable(known)}, the "
        f"highest at one in the second half {readable(guessed)} (guessing: {readable(MARKS**-2)}). The lowest of the "
        f"others in the second half: {listed(others)}."
    )
    return Verdict(known > SOLVED and guessed < AS_GUESSING * MARKS**-2 and are_above, because)


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


RECURRENCE_CLAIMS = (
    Claim(
        numbers="1",
        experiment="another place",
        title="One input, one output",
        text=f"Two marks stand somewhere among {PLACES - 2} tokens of noise: which are they, in order? In training "
        "they stand in the first half. The feed-forward network reads the sequence as one input of a fixed size: each "
        "place has weights of its own, and what is learnt at one place must be learnt anew at another. Recurrent "
        "networks and attention (encoders, with the mean of all tokens) use the same weights for every token.",
        x="place of the first mark",
        y="accuracy",
        judge=judge_another_place,
        is_linear_x=True,
    ),
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
)
OTHER_SIDE_CLAIMS = (
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
