"""Whatever breaks in a push: the directory is intact, the repository is old or new, and a second run completes."""

import pytest
from push_faults import FAULTS, break_all


@pytest.fixture(scope="module")
def outcomes():
    return break_all()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_push_goes_through_or_changes_nothing(fault, outcomes):
    each = outcomes[fault]
    # Making the repository, looking at it, the card, the modes, the weights, the commit.
    assert len(each) >= 7
    for outcome in each:
        what = (fault, outcome["request"])
        assert outcome["local"] and outcome["completes"], what
        assert outcome["remote"] in ("old", "new"), what
        if outcome["error"]:
            assert outcome["remote"] == "old", what
            assert FAULTS[fault] in outcome["error"], (what, outcome["error"])
            for words in ("The model is whole in ", "To go on: python -m seqblend.hub_card.publish "):
                assert words in outcome["error"], what
        else:
            assert outcome["remote"] == "new", what


def test_a_commit_whose_answer_is_lost_is_found(outcomes):
    """It cannot be told from one that never arrived, but by looking."""
    (lost,) = [outcome for outcome in outcomes["cut_reply"] if "/commit/" in outcome["request"][1]]
    assert not lost["error"] and lost["remote"] == "new"
    (cut,) = [outcome for outcome in outcomes["cut_request"] if "/commit/" in outcome["request"][1]]
    assert cut["error"] and cut["remote"] == "old"
