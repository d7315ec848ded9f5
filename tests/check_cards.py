"""Hold the cards of finished runs to what they say: `python tests/check_cards.py DIR …`, each a run's directory.

Each is pushed to a Hub on loopback by the command, with all its checks. Then its card is validated as huggingface_hub
does before a commit, its numbers are compared with all_results.json, and its code is run as it is printed, over HTTP,
where seqblend is not installed.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from huggingface_hub import HfApi, ModelCard, constants
from loopback_hub import LoopbackHub

from seqblend.hub_card import verify
from seqblend.hub_card.card import METRICS, SPLITS
from seqblend.hub_card.publish import main as publish

TOKEN = "hf_writer_0123456789"


def check(directory: Path, hub: LoopbackHub) -> str:
    """Push one, check it, and say in a line what was checked."""
    repo_id = f"someone/{directory.name}"
    with contextlib.redirect_stdout(None):
        assert publish([str(directory), "--repo_id", repo_id]) == 0, directory
    text = hub.repos[repo_id].files("main")["README.md"].decode()
    HfApi(endpoint=hub.endpoint, token=TOKEN)._validate_yaml(text)
    results = json.loads((directory / "all_results.json").read_text())
    figures = {
        (split, METRICS[key][1]): results[f"{prefix}_{key}"]
        for prefix, split in SPLITS.items()
        for key in METRICS
        if f"{prefix}_{key}" in results
    }
    evaluated = ModelCard(text).data.eval_results
    assert {(each.dataset_split, each.metric_name): each.metric_value for each in evaluated} == figures, directory
    for (split, name), value in figures.items():
        assert re.search(rf"\| {split} \| [\d,]+ \| {name} \| {value:.4f} \|", text), (directory, split, name)
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (output,) = re.findall(r"It prints:\n\n```text\n(.*?)\n```", text, re.DOTALL)
    assert over_http(code, hub) == output, directory
    return f"{directory}: {len(figures)} figures, code printed {output.splitlines()[0][:60]!r}"


def over_http(code: str, hub: LoopbackHub) -> str:
    """What the code prints in a process of its own, with an empty cache, without seqblend."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, **hub.environment(TOKEN), "HF_HOME": home}
        command = [sys.executable, verify.__file__, "-"]
        done = subprocess.run(
            command, input=code, env=environment, cwd=home, capture_output=True, encoding="utf-8", check=False
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.rstrip("\n")


if __name__ == "__main__":
    with (
        LoopbackHub({TOKEN: "someone"}) as hub,
        mock.patch.dict(os.environ, hub.environment(TOKEN)),
        mock.patch.multiple(constants, HF_HUB_OFFLINE=False, HF_HUB_DISABLE_XET=True, ENDPOINT=hub.endpoint),
    ):
        for argument in sys.argv[1:]:
            print(check(Path(argument), hub), flush=True)
