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
        f"With blending, the lowest accuracy is {readable(known)}. Without blending, the lowest accuracy for the "
        f"token's own digit is {readable(own)}; for the digits of other tokens the highest accuracy is: "
        f"{listed(guessed)} (guessing: {readable(1 / DIGIT_VALUES)})."
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
    guess = "that of always answering with the most frequent value of the sequence"
    because = f"Accuracy (in brackets: {guess}): {'; '.join(parts)}"
    return Verdict(learnt and better, f"{because}.")


def judge_scaling(results: Results) -> Verdict:
    """Scaled, the largest weight does not depend on head_dim; else one weight takes nearly all."""
    name = "scaling"
    least, most = (each(results, name, SCALED, HEAD_DIMS) for each in (lowest, highest))
    first, last = (each(name, UNSCALED).value for each in (results.first, results.last))
    because = (
        f"With scaling, the largest weight is between {readable(least)} and {readable(most)} for all values of "
        f"head_dim. Without scaling, it is {readable(first)} with {HEAD_DIMS[0]} features and {readable(last)} with "
        f"{HEAD_DIMS[-1]}."
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
    because = f"After {DEPTH} layers, the share of the states that differs between tokens is: {listed(shares)}."
    return Verdict(shares[NO_RESIDUAL] < ALIKE and shares[WHOLE] > DIFFERENT, because)


def judge_sizes(results: Results) -> Verdict:
    """Without normalization the states grow much more than with it."""
    growth = {
        part: results.last("sizes", part).value / results.first("sizes", part).value
        for part in results.settings("sizes")
    }
    because = f"Norm after the last of {DEPTH} layers, divided by that after the first: {listed(growth)}."
    return Verdict(growth[NO_NORM] > LEAST_GROWTH * max(growth[WHOLE], growth[NO_RESIDUAL]), because)


def judge_future(results: Results) -> Verdict:
    """Unmasked, accuracy is beyond what can be known while the future is there, and below the masked one when not."""
    name, there = "the future", MARKOV.test[1:]
    masked = [each(results, name, MASKED, MARKOV.test) for each in (lowest, highest)]
    seen = lowest(results, name, UNMASKED, there)
    with_mask, without = (results.first(name, setting) for setting in (MASKED, UNMASKED))
    because = (
        f"If the next state is in the input, the lowest accuracy without the mask is {readable(seen)}, although at "
        f"most {KNOWN} is possible without reading it. If the input ends at the tested position, the accuracy is "
        f"{readable(without.value)} without the mask and {readable(with_mask.value)} with it. In all cases with the "
        f"mask, the accuracy is between {readable(masked[0])} and {readable(masked[1])}."
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
        f"With the last state alone, exact match is {without[0].value:.3f} for {min(REVERSAL.test)} letters and "
        f"{without[1].value:.3f} for {max(REVERSAL.test)}. With cross-attention it is {with_it[0].value:.3f} and "
        f"{with_it[1].value:.3f}."
    )
    return Verdict(without[0].is_above(without[1]) and with_it[1].is_above(without[1]), because)


def judge_three_attentions(results: Results) -> Verdict:
    """With all three, sequences of all trained lengths are right; without any of them fewer of the longest are."""
    name = "three attentions"
    least = lowest(results, name, ALL_THREE, SHORT_REVERSAL.train)
    whole = results.last(name, ALL_THREE)
    longest = max(SHORT_REVERSAL.test)
    because = (
        f"With {ALL_THREE}, the lowest exact match is {readable(least)}. Exact match for {longest} letters: "
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
        f"For up to {longest} letters, the longest training length, the lowest exact match with attention is "
        f"{readable(least)}. Exact match for {longest} letters: {listed(values_at(results, name, longest))}; for "
        f"{beyond} letters, longer than in training: {listed(values_at(results, name, beyond))}."
    )
    return Verdict(least > WRITES, because)


def judge_first_token(results: Results) -> Verdict:
    """With attention [CLS] knows the clue from every distance, and not where nothing is blended into it."""
    name = "first token"
    known = lowest(results, name, "attention", EVIDENCE.test)
    nothing = highest(results, name, NOTHING, EVIDENCE.test)
    farthest = max(EVIDENCE.test)
    because = (
        f"The lowest accuracy with attention is {readable(known)}. The highest accuracy with nothing blended in is "
        f"{readable(nothing)} (guessing: {readable(1 / CLUES)}). Accuracy at distance {farthest}: "
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
        f"For up to {max(BOTH_SIDES.train)} digits, the longest training length, the lowest accuracy of the encoder "
        f"is {readable(known)}; for {longest} digits it is {readable(results.last(name, BOTH).value)}. The highest "
        f"accuracy of the decoder is {readable(past)}; at most 0.5 is possible from the past."
    )
    return Verdict(known > SOLVED and past < 0.5 + AS_KNOWN, because)


PARTS = (
    f"An encoder of {DEPTH} layers and {SIZE} features reads random tokens before training. Its matrices are "
    "initialized so that they preserve the size of the vectors that they multiply"
)
BLENDING_CLAIMS = (
    Claim(
        numbers="4",
        experiment="neighbours",
        title="What blending brings to a token",
        text="Each token is a digit and a number n: the model predicts the digit n positions before it (with n = 0, "
        "its own digit). The model is an encoder of one layer. After training it is tested as it is, and with the "
        "output of its attention set to zero (blending taken out). Another model is trained with this output set to "
        "zero (trained without).",
        x="positions before",
        y="accuracy",
        judge=judge_neighbours,
        is_linear_x=True,
    ),
    Claim(
        numbers="3, 5",
        experiment="associative recall",
        title="A query meets many keys",
        text="A sequence contains pairs of a key and a value, then each key again; the model predicts the value of "
        "the key. Attention can look it up. A recurrent network must keep all pairs in a state of fixed size, and "
        "must learn to do so (Arora et al. 2023).",
        x="pairs",
        y="accuracy",
        judge=judge_associative,
    ),
    Claim(
        numbers="6",
        experiment="scaling",
        title="The somewhat normalized form",
        text="The dot product of two vectors grows with their number of features. A softmax of large numbers gives "
        "nearly all weight to one key, and then its gradient is small (Vaswani et al. 2017, §3.2.1). Divided by "
        "√head_dim, the dot product does not grow. Measured without training: the largest weight of a query among 64 "
        "keys, where queries and keys are drawn from the normal distribution.",
        x="head_dim",
        y="largest weight",
        judge=judge_scaling,
    ),
    Claim(
        numbers="7",
        experiment="heads",
        title="From many angles",
        text="At each position: which of the four previous digits equal the current one? One block with one head or "
        "several, at equal width. A head computes one weighted mean, and from a mean it is hard to tell which value "
        "came from which position.",
        x="digits",
        y="accuracy",
        judge=judge_heads,
    ),
    Claim(
        numbers="8",
        experiment="differences",
        title="The residual connection keeps tokens apart",
        text=f"{PARTS}. Blending alone makes all tokens alike, layer by layer (Dong et al. 2021). Measured: the share "
        "of the states that differs between tokens, which is their distance to the mean token, divided by their norm.",
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
        text=f"{PARTS}. Measured: the mean norm of a token's state. In the whole block, each sublayer reads a "
        "normalized input, so the vector that it adds to the state does not grow with the state. Without "
        "normalization, this vector grows in proportion to the state.",
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
        text=f"A Markov chain has {STATES} states in a circle, and goes from each state to the following one with the "
        f"probability {KNOWN}. So from the past, the next state can be predicted with an accuracy of at most {KNOWN}. "
        "The same stack is trained to predict the next states with the mask (a decoder) and without it (an encoder); "
        "the whole sequence is in its input. It is tested at one position. The horizontal axis is the number of "
        "states in the input after this position; in prediction there are none.",
        x="states after the position",
        y="accuracy",
        judge=judge_future,
        is_linear_x=True,
    ),
    Claim(
        numbers="10, 14",
        experiment="cross-attention",
        title="What ties encoder and decoder together",
        text="Encoder-decoders of LSTMs write the letters of the source in reverse order. If the decoder gets only "
        "the last state of the encoder (of both directions), the whole source must fit into this state, and exact "
        "match falls with the length (Bahdanau et al. 2015, figure 2). With cross-attention, each step can read the "
        "positions of the source that it needs.",
        x="source length in letters",
        y="exact match",
        judge=judge_cross_attention,
    ),
    Claim(
        numbers="11",
        experiment="language model",
        title="The decoder alone writes",
        text="A decoder without an encoder reads letters and a separator token, and then writes the letters in "
        "reverse order with `generate`, which predicts each token from the tokens before it. A text counts as right "
        "only if all its tokens are right. For comparison: a decoder with an LSTM in place of attention.",
        x="letters",
        y="exact match",
        judge=judge_language_model,
        is_linear_x=True,
    ),
    Claim(
        numbers="12",
        experiment="first token",
        title="The first token knows the sequence",
        text="An encoder of one layer reads [CLS], noise, and one clue at some distance from [CLS]; the vector of "
        "[CLS] is classified. For comparison: recurrent encoders, which read step by step in both directions; and "
        "attention with its output set to zero, so that nothing is blended into [CLS].",
        x="distance in tokens",
        y="accuracy",
        judge=judge_first_token,
    ),
    Claim(
        numbers="13",
        experiment="each token",
        title="Each output is classified",
        text="At each position: does the previous digit equal the next digit? Each output of one layer is projected "
        "onto the two classes. The digits are drawn so that the past contains no information about the answer.",
        x="digits",
        y="accuracy",
        judge=judge_each_token,
    ),
    Claim(
        numbers="14",
        experiment="three attentions",
        title="Three attentions, and each is needed",
        text="A Transformer with one layer in the encoder and one in the decoder writes the letters of the source in "
        "reverse order. Three other models are trained with the output of one attention set to zero: the "
        "self-attention of the encoder, which blends the tokens of the source; the masked self-attention at the "
        "bottom of the decoder block; or the cross-attention in its middle.",
        x="source length in letters",
        y="exact match",
        judge=judge_three_attentions,
        is_linear_x=True,
    ),
)
