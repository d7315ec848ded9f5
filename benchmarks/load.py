"""Load a server: `python -m seqblend.benchmarks.load DIR --texts FILE`, one client at a time, then many.

Prints requests per second, latencies, and how much of the cores the clients took themselves.
"""

import argparse
import asyncio
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# Seconds of each phase before its answers are counted.
WARM_UP = 2.0


@dataclass
class Phase:
    """What clients saw.

    Args:
        seconds: in which answers were counted.
        statuses: number of answers by status.
        latencies: seconds of each answer with status 200.
        own: seconds of CPU that the clients took.
        servers: seconds of CPU that the server took.
    """

    seconds: float = 0.0
    statuses: Counter = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    own: float = 0.0
    servers: float = 0.0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    def __str__(self) -> str:
        half, most = np.percentile(self.latencies, (50, 99)) * 1000 if self.latencies else (np.nan, np.nan)
        share = self.own / max(self.own + self.servers, 1e-9)
        return (
            f"{self.rate:8.1f} requests/s  p50 {half:7.1f} ms  p99 {most:7.1f} ms  statuses {dict(self.statuses)}  "
            f"clients' share of the CPU time {share:.0%}"
        )


class Load:
    """Clients of a server on this machine.

    Args:
        port: of the server.
        bodies: JSON of requests, of which each client takes one after the other.
    """

    def __init__(self, port: int, bodies: list[bytes]):
        self.port, self.bodies = port, bodies
        self.next = 0

    def request(self) -> bytes:
        """The next request."""
        body = self.bodies[self.next % len(self.bodies)]
        self.next += 1
        head = (
            f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        return head.encode() + b"\r\n" + body

    async def client(self, phase: Phase, begin: float, end: float) -> None:
        """Ask until the end; what is asked between `begin` and `end` is counted. A lost connection counts as 0."""
        reader = writer = None
        while time.perf_counter() < end:
            asked = time.perf_counter()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(self.request())
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await reader.readexactly(int(re.findall(r"(?i)content-length: (\d+)", head)[0]))
                status = int(head.split(" ", 2)[1])
                if re.search("(?i)connection: close", head):
                    writer.close()
                    writer = None
            except (OSError, asyncio.IncompleteReadError):
                status, writer = 0, None
            if asked >= begin:
                phase.statuses[status] += 1
                if status == 200:
                    phase.latencies.append(time.perf_counter() - asked)
            if status == 503:
                await asyncio.sleep(random.uniform(0, 1))
        if writer is not None:
            writer.close()

    async def run(self, clients: int, seconds: float) -> Phase:
        """Let so many clients ask for so long."""
        phase = Phase()
        begin = time.perf_counter() + WARM_UP
        asking = [asyncio.ensure_future(self.client(phase, begin, begin + seconds)) for _ in range(clients)]
        await asyncio.sleep(WARM_UP)
        own, servers = own_seconds(), await asyncio.to_thread(self.server_seconds)
        await asyncio.gather(*asking)
        phase.seconds = time.perf_counter() - begin
        phase.own, phase.servers = own_seconds() - own, await asyncio.to_thread(self.server_seconds) - servers
        return phase

    def metrics(self) -> str:
        """The server's metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=600) as response:
            return response.read().decode()

    def server_seconds(self) -> float:
        """Seconds of CPU that the server has taken."""
        return float(re.findall(r"(?m)^process_cpu_seconds_total (\S+)", self.metrics())[0])

    def server_megabytes(self) -> float:
        """Memory of the server."""
        return float(re.findall(r"(?m)^process_resident_memory_bytes (\S+)", self.metrics())[0]) / 2**20


def own_seconds() -> float:
    """Seconds of CPU that this process has taken."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def started(directory: str, *flags: str) -> Iterator[int]:
    """A server of a model; gives its port."""
    command = [sys.executable, "-m", "seqblend", "serve", directory, "--port", "0", "--log", "errors", *flags]
    with tempfile.NamedTemporaryFile("r") as log, subprocess.Popen(command, stderr=log.fileno()) as process:
        try:
            while not (found := re.findall(r"http://\S+:(\d+)", Path(log.name).read_text(encoding="utf-8"))):
                if process.poll() is not None:
                    sys.exit(Path(log.name).read_text(encoding="utf-8"))
                time.sleep(0.1)
            yield int(found[0])
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=60)
            process.kill()


def main() -> None:
    """Run the phases and print them."""
    parser = argparse.ArgumentParser(prog="python -m seqblend.benchmarks.load", description=__doc__)
    parser.add_argument("directory", metavar="DIR", help="a saved model")
    parser.add_argument("--texts", type=Path, required=True, metavar="FILE", help="texts to ask about, one a line")
    parser.add_argument("--parameters", type=json.loads, default={}, metavar="JSON", help="of each request")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 64], help="clients of each phase")
    parser.add_argument("--seconds", type=float, default=60)
    given, flags = parser.parse_known_args()
    texts = [line for line in given.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    bodies = [json.dumps({"inputs": text, "parameters": given.parameters}).encode() for text in texts]
    with started(given.directory, *flags) as port:
        load, first = Load(port, bodies), None
        for clients in given.clients:
            phase = asyncio.run(load.run(clients, given.seconds))
            first = first or phase
            ratio = f"{phase.rate / first.rate:.2f} x" if first.rate else ""
            print(f"{clients:5} clients  {phase}  {ratio}  {load.server_megabytes():.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
