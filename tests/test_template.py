"""A script that is forked from the template sees what one in a new process would see."""

import json

import pytest
from conftest import WITHOUT_PACKAGE
from template import TEMPLATE

# What reads its environment when it is imported, and what a script may hide.
OWN = {"datasets", "huggingface_hub", "seqblend", "tokenizers", "transformers"}
TELL = """
import json, os, sys
loaded = sorted({name.split(".")[0] for name in sys.modules})
seen = {"argv": sys.argv, "cwd": os.getcwd(), "environ": dict(os.environ), "path": sys.path, "name": __name__}
print(json.dumps({**seen, "stdin": sys.stdin.read(), "loaded": loaded}))
"""


def test_a_script_has_what_it_is_given_and_nothing_of_the_one_before(tmp_path):
    for number, word in enumerate(("é", "two")):
        folder = tmp_path / word
        folder.mkdir()
        environment = {"WORD": word, f"ONLY_{number}": "1", "PYTHONPATH": "/first"}
        done = TEMPLATE.run(TELL, word, 7, cwd=folder, env=environment, given=word)
        assert done.returncode == 0 and not done.stderr
        seen = json.loads(done.stdout)
        assert seen["argv"] == ["-c", word, "7"] and seen["stdin"] == word and seen["name"] == "__main__"
        assert seen["cwd"] == str(folder) and seen["path"][:2] == ["", "/first"]
        # The interpreter may set a variable of the language.
        assert environment.items() <= seen["environ"].items() and f"ONLY_{1 - number}" not in seen["environ"]
        assert "torch" in seen["loaded"] and not OWN & {*seen["loaded"]}


def test_variables_are_read_by_who_reads_them_when_imported(tmp_path):
    script = (
        "from huggingface_hub import constants; print(constants.HF_HOME, constants.ENDPOINT, constants.HF_HUB_OFFLINE)"
    )
    for name in ("a", "b"):
        environment = {"HF_HOME": f"/{name}", "HF_ENDPOINT": f"http://{name}", "HF_HUB_OFFLINE": str(int(name == "a"))}
        done = TEMPLATE.run(script, cwd=tmp_path, env=environment)
        assert done.stdout.split() == [f"/{name}", f"http://{name}", str(name == "a")], done.stderr


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("import atexit; atexit.register(print, 'end'); print('begin')", 0, "begin\nend\n"),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("import sys; sys.exit(3)", 3, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        (WITHOUT_PACKAGE + "import seqblend", 1, "ModuleNotFoundError: seqblend\n"),
    ],
)
def test_a_script_ends_as_it_does_in_a_new_process(script, code, said, tmp_path):
    done = TEMPLATE.run(script, cwd=tmp_path, env={})
    assert done.returncode == code and (done.stderr or done.stdout).endswith(said)


def test_sets_have_another_order_there(tmp_path):
    """So that what is the same there does not depend on it."""
    assert int(TEMPLATE.run("print(hash('word'))", cwd=tmp_path, env={}).stdout) != hash("word")
