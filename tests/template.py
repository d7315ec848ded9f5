"""Processes that begin with torch: one, the template, has imported it, and forks for each script that is to be run.

A script that is to have an environment, imports and caches of its own would wait six seconds for what every other
script imports too. In the template is only what is the same for all: nothing that reads the variables of Hugging Face
when it is imported (huggingface_hub, transformers, datasets), and nothing of seqblend. Each script imports these for
itself, as in a new process. What a new interpreter alone does (`python train.py`, `python -m`) cannot be tested so.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

# What takes long to import, by whomever transformers, seqblend or a script has it imported.
HEAVY = (
    *("torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "torch.export"),
    *("numpy", "pandas", "scipy.optimize", "scipy.stats", "sklearn.metrics", "safetensors.torch"),
)
# Of all scripts, and hardly that of the process that has them run: where sets have another order, texts are drawn and
# tokenizers are trained in another order too, if anything depends on it.
HASH_SEED = "123"


class Template:
    """The process that forks; it is started when it is first needed, and ends with the process that uses it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, script: str, *arguments: Any, cwd: Path, env: dict[str, str], given: str = "") -> Any:
        """Run a script as `python -c script arguments` does, but for what this module says; to its end.

        Args:
            script: Python code.
            arguments: of the script.
            cwd: where it runs.
            env: its environment.
            given: what it reads from sys.stdin.

        Returns:
            What subprocess.run returns: `returncode`, and as text `stdout` and `stderr`.
        """
        with tempfile.TemporaryDirectory() as place:
            streams = [str(Path(place, name)) for name in ("stdin", "stdout", "stderr")]
            Path(streams[0]).write_text(given, encoding="utf-8")
            arguments = tuple(map(str, arguments))
            order = {"script": script, "arguments": arguments, "cwd": str(cwd), "env": env, "streams": streams}
            try:
                code = int(self.ask(json.dumps(order)))
            except BaseException:
                self.stop()
                raise
            said = [Path(name).read_text(encoding="utf-8", errors="replace") for name in streams[1:]]
        return subprocess.CompletedProcess(("-c", *arguments), code, *said)

    def ask(self, order: str) -> str:
        """Send an order to the template; its answer."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": HASH_SEED},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the template has ended"
        return answer

    def stop(self) -> None:
        """End the template, and whatever runs in its forks."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            self.process = None


TEMPLATE = Template()


# --- In the template ---


def next_order() -> dict[str, Any]:
    """Fork for each line of the standard input, and answer by how the fork ended; returns in a fork alone."""
    for line in sys.stdin:
        if not (child := os.fork()):
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def become(order: dict[str, Any]) -> ModuleType:
    """Have the environment, the directory, the streams and the arguments that are ordered; an empty main module."""
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    for number, name in enumerate(order["streams"]):
        file = os.open(name, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.argv = ["-c", *order["arguments"]]
    # In place of this file's folder.
    sys.path[:1] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.modules["__main__"] = ModuleType("__main__")
    return sys.modules["__main__"]


def execute(script: str, module: ModuleType) -> int:
    """Run a script in a module; its exit code. What it raises is printed as the interpreter prints it."""
    try:
        exec(compile(script, "<string>", "exec"), vars(module))
    except SystemExit as stopped:
        if stopped.code is None or isinstance(stopped.code, int):
            return stopped.code or 0
        print(stopped.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    else:
        return 0
    return 1


def end(code: int) -> NoReturn:
    """End as the interpreter does, without deleting all objects one by one, which takes half a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for name in HEAVY:
        importlib.import_module(name)
    # No fork looks through what it will never lose, nor copies it by looking.
    gc.collect()
    gc.freeze()
    order = next_order()
    end(execute(order["script"], become(order)))
