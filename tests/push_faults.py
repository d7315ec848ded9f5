"""Break every request of a push, in every way, and count what comes of it: `python tests/push_faults.py`.

The command prints the table of docs/reliability.md; tests/test_push_faults.py holds its numbers.
"""

import contextlib
import copy
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from huggingface_hub import constants
from huggingface_hub.utils import _http, disable_progress_bars, get_session
from loopback_hub import LoopbackHub

from seqblend import BlendEncoderConfig, BlendEncoderForSequenceClassification
from seqblend.hub_card import publish as publishing
from seqblend.hub_card.card import write_card
from seqblend.hub_card.contents import PublishError
from seqblend.hub_card.publish import Destination, publish
from seqblend.hub_card.verify import write_reference

TOKEN, REPO = "hf_writer_0123456789", "someone/model"
# What each way to break a request must leave in the error's words.
FAULTS = {
    "refuse": "RemoteProtocolError",
    401: "HTTP 401",
    403: "HTTP 403",
    409: "HTTP 409",
    413: "HTTP 413",
    429: "HTTP 429",
    500: "HTTP 500",
    "cut_request": "Error",
    "cut_reply": "Error",
    "hang": "Timeout",
}
NAMES = {
    "refuse": "connection refused",
    "cut_request": "cut while the request is sent",
    "cut_reply": "cut while the answer comes",
    "hang": "no answer",
}


@contextlib.contextmanager
def loopback() -> Iterator[LoopbackHub]:
    """A Hub that huggingface_hub takes for the real one; its client waits for nothing."""
    session = get_session()
    before, session.timeout = session.timeout, 0.3
    disable_progress_bars()
    with (
        LoopbackHub({TOKEN: "someone"}) as hub,
        mock.patch.dict(os.environ, hub.environment(TOKEN)),
        mock.patch.multiple(constants, HF_HUB_OFFLINE=False, HF_HUB_DISABLE_XET=True, ENDPOINT=hub.endpoint),
        mock.patch.object(_http, "time", SimpleNamespace(sleep=lambda seconds: None)),
        mock.patch.object(publishing, "verify_isolated"),
    ):
        yield hub
    session.timeout = before


def save(directory: Path, hidden_size: int) -> dict[str, bytes]:
    """A saved model; all its files."""
    config = BlendEncoderConfig(vocab_size=9, hidden_size=hidden_size, num_hidden_layers=1, num_attention_heads=2)
    model = BlendEncoderForSequenceClassification(config)
    model.save_pretrained(directory)
    write_reference(model, directory)
    write_card(directory, complete=False)
    return contents(directory)


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class Breaker:
    """Pushes a second version of a model over its first, while a request breaks.

    Args:
        place: an empty directory.
        hub: to push to.
    """

    def __init__(self, place: Path, hub: LoopbackHub):
        self.hub, self.new = hub, place / "new"
        save(place / "old", 16)
        self.local = save(self.new, 32)
        publish(place / "old", Destination(REPO))
        self.repository = hub.repos[REPO]

    def break_one(self, fault: Any, number: int) -> dict[str, Any] | None:
        """Push while one request breaks each time that it is made, and once more.

        Args:
            fault: how it breaks.
            number: which request, counted from 0.

        Returns:
            What came of it; None if the push has no such request.
        """
        hub, new, before = self.hub, self.new, self.repository.files("main")
        # As the first version left it.
        hub.repos = {REPO: copy.deepcopy(self.repository)}
        broken: list[tuple[str, str]] = []

        def break_it(index: int, method: str, path: str) -> Any:
            if index == number:
                broken.append((method, path))
            # A repository that is there already is answered by 409 as it is.
            answered = fault == 409 and path == "/api/repos/create"
            return fault if (method, path) in broken and not answered else None

        hub.fault, error = break_it, ""
        try:
            publish(new, Destination(REPO))
        except PublishError as refused:
            error = str(refused)
        hub.fault = None
        if not broken:
            return None
        after = hub.repos[REPO].files("main")
        publish(new, Destination(REPO))
        final = hub.repos[REPO].files("main")
        return {
            "request": broken[0],
            "error": error,
            "local": contents(new) == self.local,
            "remote": "old" if after == before else "new" if after == final else "between",
            "completes": all(final[name] == content for name, content in self.local.items()),
        }

    def break_each(self, fault: Any) -> list[dict[str, Any]]:
        """What comes of a fault at each request."""
        outcomes: list[dict[str, Any]] = []
        while (outcome := self.break_one(fault, len(outcomes))) is not None:
            outcomes.append(outcome)
        return outcomes


def table(outcomes: dict[Any, list[dict[str, Any]]]) -> str:
    """The counts, as Markdown."""
    lines = [
        "| fault | requests broken | error, cause named | went through all the same | repository old / new / between "
        "| directory intact | second run completes |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault, each in outcomes.items():
        remote = Counter(outcome["remote"] for outcome in each)
        failed = [outcome for outcome in each if outcome["error"]]
        cells = [
            NAMES.get(fault, f"HTTP {fault}"),
            len(each),
            sum(FAULTS[fault] in outcome["error"] for outcome in failed),
            len(each) - len(failed),
            f"{remote['old']} / {remote['new']} / {remote['between']}",
            sum(outcome["local"] for outcome in each),
            sum(outcome["completes"] for outcome in each),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, loopback() as hub:
        breaker = Breaker(Path(place), hub)
        sys.stdout.write(table({fault: breaker.break_each(fault) for fault in FAULTS}) + "\n")
