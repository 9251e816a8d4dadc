"""One system in processes of its own: started, ready, and gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stack
from benchmarks.machine import tree
from benchmarks.peers.systems import OURS, System
from benchmarks.stack import Stack
from local.embedded import EmbeddedServer
from local.ports import free_port
from local.server import tethered

ROOT = Path(__file__).resolve().parents[2]
SERVERS = Path(__file__).with_name("servers")
MODELS = Path(__file__).with_name("models.yaml")
START_S, STOP_S = 120.0, 20.0
# Nothing is fetched and nobody is told.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "RAY_USAGE_STATS_ENABLED": "0",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, slots=True)
class Side:
    """A system that runs. `startup_s`: from its start to its first answer."""

    system: System
    stack: Stack
    startup_s: float
    echo: bool

    @property
    def url(self) -> str:
        """Where its endpoint is."""
        return self.stack.url + self.system.path


def python(system: System) -> Path:
    """Of the system's own environment."""
    return ROOT / ".venv-peers" / (system.environment or system.name) / "bin" / "python"


@contextlib.contextmanager
def started(system: System, variant: Mapping[str, int], folder: Path, *, echo: bool = False) -> Iterator[Side]:
    """Ready to answer, with the model or as an echo. Raises RuntimeError with the log's tail."""
    folder.mkdir(parents=True)
    begun = time.monotonic()
    if system.name == OURS:
        with stack.running(folder, MODELS, "echo" if echo else "bert", ML_DEVICE="cpu") as ours:
            yield Side(system, ours, time.monotonic() - begun, echo)
        return
    with contextlib.ExitStack() as living:
        settings = {"PORT": str(free_port()), "ECHO": str(int(echo)), "FOLDER": str(folder)}
        settings |= {name: str(value) for name, value in variant.items()}
        pids = []
        if system.redis:
            # Nothing on the disk: its fastest, and what the tutorials' container does.
            server = living.enter_context(EmbeddedServer(folder / "redis", extra=("--appendonly", "no")))
            settings["REDIS_URL"] = server.url
            pids.append(server.pid)
        env = _environment(system, settings, folder)
        log = folder / "server.log"
        for program in system.programs:
            pids.append(living.enter_context(_process([str(python(system)), *program.split()], env, folder, log)))
        url = f"http://127.0.0.1:{settings['PORT']}"
        _wait(url + system.path, json.dumps(system.body(["ready"])).encode(), log, pids)
        yield Side(system, Stack(url, pids[0], tuple(pids[1:])), time.monotonic() - begun, echo)


def _environment(system: System, settings: Mapping[str, str], folder: Path) -> dict[str, str]:
    """As in a shell with the system's environment active: CLIs find their helpers on PATH."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    place = python(system).parent
    own |= {"VIRTUAL_ENV": str(place.parent), "PATH": f"{place}:{own['PATH']}", "PYTHONPATH": str(SERVERS)}
    own |= {"BENTOML_HOME": str(folder / "bentoml")}
    threads = {"OMP_NUM_THREADS": settings["THREADS"]} if "THREADS" in settings else {}
    return own | QUIET | threads | {f"PEER_{name}": value for name, value in settings.items()}


@contextlib.contextmanager
def _process(command: list[str], env: dict[str, str], folder: Path, log: Path) -> Iterator[int]:
    command = [part.format(servers=SERVERS, **env) for part in command]
    with log.open("ab") as output:
        process = subprocess.Popen(
            tethered(command, signal.SIGTERM),
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM; what is left of it and its descendants is killed."""
    family = {pid: born for pid in tree(process.pid) if (born := _born(pid))}
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    if process.poll() is None:
        process.kill()
        process.wait()
    give_up = time.monotonic() + 2  # daemons that end themselves when they notice
    while time.monotonic() < give_up and any(_born(pid) == born for pid, born in family.items()):
        time.sleep(0.05)
    _signal([pid for pid, born in family.items() if _born(pid) == born], signal.SIGKILL)


def _born(pid: int) -> str:
    """When it started, which tells it from a later one of the same number; empty when it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _wait(url: str, body: bytes, log: Path, pids: Sequence[int]) -> None:
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up and all(map(_born, pids)):
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - our own
        with contextlib.suppress(urllib.error.URLError, OSError):
            if urllib.request.urlopen(request, timeout=START_S).status == 200:  # noqa: S310 - likewise
                return
        time.sleep(0.1)
    raise RuntimeError("no answer from the server\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))


@contextlib.contextmanager
def paused(side: Side) -> Iterator[None]:
    """None of a peer's processes runs meanwhile: some poll, and would slow what they are compared with. Ours only
    waits, and would lose its leases."""
    family = [] if side.system.name == OURS else [pid for root in side.stack.pids for pid in tree(root)]
    try:
        _signal(family, signal.SIGSTOP)
        yield
    finally:
        _signal(family[::-1], signal.SIGCONT)


def _signal(pids: Iterable[int], kind: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, kind)


def peak_mb(stack: Stack) -> tuple[float, float]:
    """Of all its processes: the sum of their peaks (pages that they share count for each), and the sum now in which a
    page that n share counts 1/n for each."""
    peak = now = 0.0
    for pid in (pid for root in stack.pids for pid in tree(root)):
        peak += _field(f"/proc/{pid}/status", "VmHWM:")
        now += _field(f"/proc/{pid}/smaps_rollup", "Pss:")
    return peak / 1024, now / 1024


def _field(path: str, name: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return float(line.split()[1])
    return 0.0
