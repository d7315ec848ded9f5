"""The claims on attention as blending, on the blocks made of it, and on what these are used for."""

from .experiments import (
    ALL_THREE,
    ALONE,
    BLENDED,
    BOTH,
    MASKED,
    NOTHING,
    PAST,
    TAKEN_OUT,
    THREE,
    UNMASKED,
    WITH,
    WITHOUT,
)
from .results import Results, readable
from .tasks import (
    ASSOCIATIVE,
    BOTH_SIDES,
    CLUES,
    CONTINUATION,
    DIGIT_VALUES,
    EVIDENCE,
    KNOWN,
    MARKOV,
    NEIGHBOURS,
    REVERSAL,
    SHORT_REVERSAL,
    STATES,
    most_frequent_value,
)
from .untrained import DEPTH, HEAD_DIMS, NO_NORM, NO_RESIDUAL, SCALED, SIZE, UNSCALED, WHOLE
from .verdicts import (
    AS_GUESSING,
    AS_KNOWN,
    RECURRENT,
    SOLVED,
    Claim,
    Verdict,
    highest,
    listed,
    lowest,
    values_at,
)

# A weight that changes by less than this factor does not depend on head_dim; one above SHARP leaves out all others.
STEADY, SHARP = 1.5, 0.9
# Tokens are alike if less than this share of their states differs, and different if more.
ALIKE, DIFFERENT = 0.01, 0.1
# Without normalization, states grow at least so many times as much.
LEAST_GROWTH = 10
# The least exact match of what a model can write.
WRITES = 0.95


def judge_neighbours(results: Results) -> Verdict:
    """With blending all is known, without it only the token itself."""
    name, others = "neighbours", NEIGHBOURS.test[1:]
    known = lowest(results, name, BLENDED, NEIGHBOURS.test)
    own = min(lowest(results, name, setting, (0,)) for setting in (TAKEN_OUT, ALONE))
    guessed = {setting: highest(results, name, setting, others) for setting in (TAKEN_OUT, ALONE)}
    because = (
        f"With blending the lowest accuracy is {readable(known)}. Without it, the token itself is known "
        f"({readable(own)}); of the others, the highest accuracy is {listed(guessed)} "
        f"(guessing: {readable(1 / DIGIT_VALUES)})."
    )
    return Verdict(min(known, own) > SOLVED and max(guessed.values()) < AS_GUESSING / DIGIT_VALUES, because)


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


def judge_scaling(results: Results) -> Verdict:
    """Scaled, the largest weight does not depend on head_dim; else one weight takes nearly all."""
    name = "scaling"
    least, most = (each(results, name, SCALED, HEAD_DIMS) for each in (lowest, highest))
    first, last = (each(name, UNSCALED).value for each in (results.first, results.last))
    because = (
        f"From {HEAD_DIMS[0]} to {HEAD_DIMS[-1]} features the largest weight stays between {readable(least)} and "
        f"{readable(most)} if the dot product is {SCALED}; {UNSCALED} it goes from {readable(first)} to "
        f"{readable(last)}."
    )
    return Verdict(most < STEADY * least and last > SHARP, because)


def judge_heads(results: Results) -> Verdict:
    """The most heads are above one head."""
    settings = results.settings("heads")
    one, many = (results.last("heads", setting) for setting in (settings[0], settings[-1]))
    values = {setting: results.last("heads", setting).value for setting in settings}
    return Verdict(many.is_above(one), f"Accuracy: {listed(values)}.")


def judge_differences(results: Results) -> Verdict:
    """Without the residual connection the tokens become alike, with it they do not."""
    shares = {part: results.last("differences", part).value for part in results.settings("differences")}
    because = f"After {DEPTH} layers the share in which tokens differ is: {listed(shares)}."
    return Verdict(shares[NO_RESIDUAL] < ALIKE and shares[WHOLE] > DIFFERENT, because)


def judge_sizes(results: Results) -> Verdict:
    """Without normalization the states grow much more than with it."""
    growth = {
        part: results.last("sizes", part).value / results.first("sizes", part).value
        for part in results.settings("sizes")
    }
    because = f"From the first to the last of {DEPTH} layers the norm grows by the factor {listed(growth)}."
    return Verdict(growth[NO_NORM] > LEAST_GROWTH * max(growth[WHOLE], growth[NO_RESIDUAL]), because)


def judge_future(results: Results) -> Verdict:
    """Unmasked, accuracy is beyond what can be known while the future is there, and below the masked one when not."""
    name, there = "the future", MARKOV.test[1:]
    masked = [each(results, name, MASKED, MARKOV.test) for each in (lowest, highest)]
    seen = lowest(results, name, UNMASKED, there)
    with_mask, without = (results.first(name, setting) for setting in (MASKED, UNMASKED))
    because = (
        f"While the next state is in the input, the lowest accuracy without the mask is {readable(seen)}, though no "
        f"more than {KNOWN} can be known; where the input ends, it is {readable(without.value)}, and with the mask "
        f"{readable(with_mask.value)}. With the mask it stays between {readable(masked[0])} and {readable(masked[1])}."
    )
    is_known = all(abs(value - KNOWN) < AS_KNOWN for value in masked)
    return Verdict(is_known and seen > SOLVED and with_mask.is_above(without), because)


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


def judge_three_attentions(results: Results) -> Verdict:
    """With all three, sequences of all trained lengths are right; without any of them fewer of the longest are."""
    name = "three attentions"
    least = lowest(results, name, ALL_THREE, SHORT_REVERSAL.train)
    whole = results.last(name, ALL_THREE)
    longest = max(SHORT_REVERSAL.test)
    because = (
        f"With {ALL_THREE} the lowest exact match is {readable(least)}. At {longest} letters: "
        f"{listed(values_at(results, name, longest))}."
    )
    return Verdict(least > WRITES and all(whole.is_above(results.last(name, each)) for each in THREE), because)


def judge_language_model(results: Results) -> Verdict:
    """A decoder with attention writes texts of all lengths that were trained."""
    name, longest = "language model", max(CONTINUATION.train)
    trained = [at for at in CONTINUATION.test if at <= longest]
    least = lowest(results, name, "attention", trained)
    beyond = max(CONTINUATION.test)
    because = (
        f"Up to {longest} letters, the longest that were trained, the lowest exact match with attention is "
        f"{readable(least)}. At {longest} letters: {listed(values_at(results, name, longest))}; at {beyond}, longer "
        f"than trained: {listed(values_at(results, name, beyond))}."
    )
    return Verdict(least > WRITES, because)


def judge_first_token(results: Results) -> Verdict:
    """With attention [CLS] knows the clue from every distance, and not where nothing is blended into it."""
    name = "first token"
    known = lowest(results, name, "attention", EVIDENCE.test)
    nothing = highest(results, name, NOTHING, EVIDENCE.test)
    farthest = max(EVIDENCE.test)
    because = (
        f"The lowest accuracy with attention is {readable(known)}, the highest with nothing blended in "
        f"{readable(nothing)} (guessing: {readable(1 / CLUES)}). At distance {farthest}: "
        f"{listed(values_at(results, name, farthest))}."
    )
    return Verdict(known > SOLVED and nothing < AS_GUESSING / CLUES, because)


def judge_each_token(results: Results) -> Verdict:
    """The encoder is right at the trained lengths; the decoder only as often as the past can know."""
    name = "each token"
    known = lowest(results, name, BOTH, BOTH_SIDES.train)
    past = highest(results, name, PAST, BOTH_SIDES.test)
    longest = max(BOTH_SIDES.test)
    because = (
        f"Up to {max(BOTH_SIDES.train)} digits, the longest that were trained, the lowest accuracy of the encoder is "
        f"{readable(known)}; at {longest} digits it is {readable(results.last(name, BOTH).value)}. The highest of the "
        f"decoder is {readable(past)}, where 0.5 can be known."
    )
    return Verdict(known > SOLVED and past < 0.5 + AS_KNOWN, because)


PARTS = (
    f"An encoder of {DEPTH} layers and {SIZE} features at initialization reads random tokens; its matrices keep the "
    "size of what they multiply"
)
BLENDING_CLAIMS = (
    Claim(
        numbers="4",
        experiment="neighbours",
        title="What blending brings to a token",
        text="Each digit asks which digit stood so many positions before; with 0 it asks for itself. An encoder of "
        "one layer answers. Once more after training, with the output of its attention set to zero; and one that was "
        "trained so.",
        x="positions before",
        y="accuracy",
        judge=judge_neighbours,
        is_linear_x=True,
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
        numbers="6",
        experiment="scaling",
        title="The somewhat normalized form",
        text="The dot product of two vectors grows with their number of features, and a softmax of large numbers "
        "takes one key and leaves out all others; then its gradient is small (Vaswani et al. 2017, §3.2.1). Divided "
        "by √head_dim it does not grow. The largest weight of a query among 64 keys, both drawn from the normal "
        "distribution; no training.",
        x="head_dim",
        y="largest weight",
        judge=judge_scaling,
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
        numbers="8",
        experiment="differences",
        title="The residual connection keeps tokens apart",
        text=f"{PARTS}. Blending alone makes all tokens alike, layer by layer (Dong et al. 2021). The share of the "
        "states in which tokens differ: their distance to the mean token, divided by their norm.",
        x="layers",
        y="share that differs",
        judge=judge_differences,
        is_logarithmic=True,
        is_linear_x=True,
    ),
    Claim(
        numbers="8",
        experiment="sizes",
        title="Normalization keeps the size",
        text=f"{PARTS}. The mean norm of a token's state. Each sublayer of the whole block adds to the state what it "
        "makes of a normalized input; without normalization it adds in proportion to the state.",
        x="layers",
        y="norm",
        judge=judge_sizes,
        is_logarithmic=True,
        is_linear_x=True,
    ),
    Claim(
        numbers="9",
        experiment="the future",
        title="The future is masked from the start",
        text=f"A Markov chain of {STATES} states goes to the following one with the probability {KNOWN}: no more of "
        "the next states can be known. The same stack is trained to predict them with the mask (a decoder) and "
        "without (an encoder), the whole sequence in its input. It is tested at one position, after which the input "
        "holds so many states; in prediction it holds none.",
        x="states after the position",
        y="accuracy",
        judge=judge_future,
        is_linear_x=True,
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
        numbers="11",
        experiment="language model",
        title="The decoder alone writes",
        text="A decoder without an encoder reads letters and a mark, and writes the letters in reverse order, each "
        "token from those before (`generate`). A text counts if all of it is right. Beside it, the decoder with an "
        "LSTM in place of attention.",
        x="letters",
        y="exact match",
        judge=judge_language_model,
        is_linear_x=True,
    ),
    Claim(
        numbers="12",
        experiment="first token",
        title="The first token knows the sequence",
        text="An encoder of one layer reads [CLS], noise, and a clue at a distance; its vector of [CLS] is "
        "classified. Beside attention, encoders that read in both directions, step by step; and attention with its "
        "output set to zero, so that nothing is blended into [CLS].",
        x="distance in tokens",
        y="accuracy",
        judge=judge_first_token,
    ),
    Claim(
        numbers="13",
        experiment="each token",
        title="Each output is classified",
        text="At each position: is the digit before equal to the digit after? Each output of one layer is projected "
        "onto the two classes. The digits are drawn so that the past says nothing about the answer.",
        x="digits",
        y="accuracy",
        judge=judge_each_token,
    ),
    Claim(
        numbers="14",
        experiment="three attentions",
        title="Three attentions, and each is needed",
        text="A Transformer, one layer in the encoder and one in the decoder, writes the letters of the source in "
        "reverse order; and the same trained with the output of one attention set to zero: the encoder's "
        "self-attention, which binds the source together, the masked self-attention below in the decoder, or the "
        "cross-attention in the middle.",
        x="source length in letters",
        y="exact match",
        judge=judge_three_attentions,
        is_linear_x=True,
    ),
)
