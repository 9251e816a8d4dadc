"""The supervisor with small real processes: output, restarts, back-off, order of stop, no orphans."""

from __future__ import annotations

import asyncio
import io
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local.console import Console
from local.supervisor import Spec, Supervisor
from shared import health

FOREVER = "import time; print('here', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"


def _python(name: str, program: str, **fields: object) -> Spec:
    return Spec(name, (sys.executable, "-c", program), **fields)  # type: ignore[arg-type]


class _Run:
    """A supervisor whose words are kept, with conditions to wait for."""

    def __init__(self, first_delay_s: float = 0.01) -> None:
        self.out = io.StringIO()
        self.states: list[dict[str, int]] = []
        self.supervisor = Supervisor(Console(self.out), self._changed, first_delay_s)

    def _changed(self) -> None:
        self.states.append(self.supervisor.pids)

    async def until(self, condition: Callable[[], object], timeout_s: float = 15) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - the state of other processes
                await asyncio.sleep(0.005)

    def said(self, text: str) -> int:
        return self.out.getvalue().count(text)


async def test_passes_both_outputs_on_under_the_name() -> None:
    run = _Run()
    program = "import sys, time; print('one'); sys.stderr.write('two'); sys.stdout.flush(); time.sleep(600)"
    run.supervisor.start([_python("api", program)])
    await run.until(lambda: run.said("api        | one"))
    await run.supervisor.stop()
    assert run.said("api        | two")  # without a newline at its end


async def test_a_line_without_end_does_not_stop_the_output() -> None:
    run = _Run()
    program = "print('x' * 3_000_000); print('after', flush=True); import time; time.sleep(600)"
    run.supervisor.start([_python("api", program)])
    await run.until(lambda: run.said("| after"))
    assert run.said("too long to show")
    await run.supervisor.stop()


async def test_restarts_what_dies_and_says_so() -> None:
    run = _Run()
    run.supervisor.start([_python("worker-1", FOREVER), _python("api", FOREVER)])
    await run.until(lambda: run.said("here") == 2)
    before = run.supervisor.pids
    os.kill(before["worker-1"], signal.SIGKILL)
    await run.until(lambda: run.said("here") == 3)
    after = run.supervisor.pids
    assert after["api"] == before["api"]
    assert after["worker-1"] != before["worker-1"]
    assert run.said("worker-1 died (SIGKILL); starting it again in 0.01 s")
    assert {"api": before["api"]} in run.states, "a dead process is listed between two lives"
    await run.supervisor.stop()
    assert run.supervisor.pids == {}


async def test_waits_longer_after_each_early_death() -> None:
    run = _Run()
    run.supervisor.start([_python("api", "raise SystemExit(7)")])
    await run.until(lambda: run.said("died (exit code 7)") >= 4)
    for delay in ("0.01", "0.02", "0.04", "0.08"):
        assert run.said(f"again in {delay} s") == 1
    assert run.supervisor.children["api"].deaths >= 4
    await run.supervisor.stop()


async def test_restart_ends_a_back_off() -> None:
    run = _Run(first_delay_s=600)
    run.supervisor.start([_python("api", "print('tried', flush=True); raise SystemExit(1)")])
    await run.until(lambda: run.said("again in 30 s"))
    run.supervisor.children["api"].restart()
    await run.until(lambda: run.said("tried") == 2)
    await run.supervisor.stop()


async def test_asked_restart_is_no_death() -> None:
    run = _Run()
    run.supervisor.start([_python("api", FOREVER)])
    await run.until(lambda: run.said("here"))
    run.supervisor.children["api"].restart()
    await run.until(lambda: run.said("here") == 2)
    assert not run.said("died")
    await run.supervisor.stop()


async def test_stops_group_after_group(tmp_path: Path) -> None:
    run, log = _Run(), tmp_path / "log"
    program = (
        "import signal, sys, time\n"
        "def stop(*_):\n"
        f"    open({str(log)!r}, 'a').write(sys.argv[1] + ' '); sys.exit()\n"
        "signal.signal(15, stop); print('here', flush=True); time.sleep(600)"
    )
    names = ("redis", "api", "worker-1", "worker-2")
    run.supervisor.start([Spec(name, (sys.executable, "-c", program, name)) for name in names])
    await run.until(lambda: run.said("here") == 4)
    await run.supervisor.stop(["api"], ["worker-1", "worker-2"])
    order = log.read_text().split()
    assert (order[0], sorted(order[1:3]), order[3]) == ("api", ["worker-1", "worker-2"], "redis")
    assert not run.said("died")


async def test_kills_what_ignores_sigterm_and_says_so() -> None:
    run = _Run()
    run.supervisor.start([_python("api", STUBBORN, stop_s=0.2)])
    await run.until(lambda: run.said("here"))
    await run.supervisor.stop()
    assert run.said("api has not stopped after 0.2 s: killing it")


async def test_hurry_does_not_wait() -> None:
    run = _Run()
    run.supervisor.start([_python("api", STUBBORN, stop_s=600)])
    await run.until(lambda: run.said("here"))
    stopping = asyncio.create_task(run.supervisor.stop())
    await asyncio.sleep(0)
    run.supervisor.hurry()
    await asyncio.wait_for(stopping, 10)


async def test_a_death_is_seen_though_a_grandchild_holds_the_pipe() -> None:
    run = _Run(first_delay_s=600)
    program = "import os, time; pid = os.fork(); pid or time.sleep(600); print('left', pid, flush=True); os._exit(3)"
    run.supervisor.start([_python("api", program)])
    await run.until(lambda: run.said("died (exit code 3)"))
    await run.supervisor.stop()
    os.kill(int(run.out.getvalue().split("left ")[1].split()[0]), signal.SIGKILL)


async def test_what_shows_no_life_any_more_is_killed_and_started_again(tmp_path: Path) -> None:
    run, file = _Run(), tmp_path / "w.alive"
    program = f"""
import os, pathlib, sys, time
from shared import health
here, file = os.getpid(), pathlib.Path({str(file)!r})
health.write(file, health.Sign(here, health.started_of(here), time.monotonic(), 1.0))
print("here", flush=True)
time.sleep(600)
"""
    run.supervisor.start([_python("worker-1", program, health=file)])
    await run.until(lambda: run.said("here") == 2, timeout_s=30)
    assert run.said("worker-1 shows no life any more: killing it") == 1
    assert run.said("worker-1 died (SIGKILL); starting it again") == 1
    await run.supervisor.stop()


async def test_what_is_still_starting_is_not_killed(tmp_path: Path) -> None:
    """The file is its predecessor's."""
    run, file = _Run(), tmp_path / "w.alive"
    health.write(file, health.Sign(os.getpid(), health.started_of(os.getpid()), time.monotonic() - 60, 1.0))
    run.supervisor.start([_python("worker-1", FOREVER, health=file), _python("watched", "raise SystemExit(1)")])
    await run.until(lambda: run.said("watched died (exit code 1)") >= 8)  # some seconds of back-off
    assert run.said("worker-1") == run.said("worker-1   | here") == 1
    await run.supervisor.stop()


def test_no_process_outlives_a_killed_supervisor() -> None:
    program = f"""
import asyncio, io, sys
from local.console import Console
from local.supervisor import Spec, Supervisor

async def main():
    supervisor = Supervisor(Console(io.StringIO()), lambda: None)
    supervisor.start([Spec(name, (sys.executable, "-c", {STUBBORN!r})) for name in ("api", "worker-1")])
    while len(supervisor.pids) < 2:
        await asyncio.sleep(0.01)
    print(*supervisor.pids.values(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    watches = [os.pidfd_open(int(pid)) for pid in starter.stdout.readline().split()]
    starter.kill()
    starter.wait()
    starter.stdout.close()
    assert len(watches) == 2
    for watch in watches:
        assert select.select([watch], [], [], 10)[0], "a child outlived its supervisor"
        os.close(watch)


def test_console_colours_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def told(out: io.StringIO) -> str:
        Console(out).line("api", "x")
        return out.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in told(Terminal())
    assert told(io.StringIO()) == "api        | x\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert told(Terminal()) == "api        | x\n"
