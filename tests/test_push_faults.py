"""Whatever breaks in a push: the directory is intact, the repository is old or new, and a second run completes."""

import pytest
from push_faults import FAULTS, Breaker, loopback

# A commit whose answer is lost cannot be told from one that never arrived, but by looking.
COMMITS = {"cut_reply": "new", "cut_request": "old"}


@pytest.fixture(scope="module")
def breaker(tmp_path_factory):
    with loopback() as hub:
        yield Breaker(tmp_path_factory.mktemp("push"), hub)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_push_goes_through_or_changes_nothing(fault, breaker):
    each = breaker.break_each(fault)
    # Making the repository, looking at it, the card, the modes, the weights, the commit.
    assert len(each) >= 7
    for outcome in each:
        what = (fault, outcome["request"])
        assert outcome["local"] and outcome["completes"], what
        assert outcome["remote"] in ("old", "new"), what
        if outcome["error"]:
            assert outcome["remote"] == "old", what
            assert FAULTS[fault] in outcome["error"], (what, outcome["error"])
            for words in ("The complete model is in ", "To continue: python -m seqblend.hub_card.publish "):
                assert words in outcome["error"], what
        else:
            assert outcome["remote"] == "new", what
    if fault in COMMITS:
        (commit,) = [outcome for outcome in each if "/commit/" in outcome["request"][1]]
        assert commit["remote"] == COMMITS[fault]
