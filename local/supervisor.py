"""Keeps processes running: starts them, passes their output on, restarts the dead with back-off, stops all in order.

It knows nothing of what the processes do. All of it runs in one event loop in the main thread (the kernel ties a
child to the thread that started it, see tether.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from local.console import Console
from local.server import tethered
from shared import health

MAX_DELAY_S = 30.0
STEADY_S = 10.0  # one that lived this long starts again without a longer delay
LINE_BYTES = 1 << 20
LOOK_S = 1.0  # between two looks at a health file


@dataclass(frozen=True, slots=True)
class Spec:
    """A process to keep running. `stop_s`: how long it may take to stop on SIGTERM; `orphan_signal`: what it gets
    when the supervisor is killed; `keep_fds`: file descriptors it inherits; `health`: the file by which it shows life
    once it is ready (shared/health.py)."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    stop_s: float = 10.0
    orphan_signal: signal.Signals = signal.SIGKILL
    keep_fds: tuple[int, ...] = ()
    health: Path | None = None


class Child:
    """One Spec and the process that runs it now. `deaths`: how often in a row it died soon after its start."""

    def __init__(self, spec: Spec, console: Console, changed: Callable[[], None], first_delay_s: float) -> None:
        self.spec = spec
        self.process: Process | None = None
        self.deaths = 0
        self._console, self._changed, self._first_delay_s = console, changed, first_delay_s
        self._stopping = False
        self._restarting = False
        self._wake = asyncio.Event()  # ends a back-off early
        self._kill_now = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def pid(self) -> int | None:
        """None between two lives."""
        return self.process.pid if self.process else None

    async def _run(self) -> None:
        while not self._stopping:
            self._restarting = False
            started = time.monotonic()
            code = await self._live()
            if self._stopping or self._restarting:
                continue
            self.deaths = 1 if time.monotonic() - started > STEADY_S else self.deaths + 1
            delay_s = min(MAX_DELAY_S, self._first_delay_s * 2 ** (self.deaths - 1))
            self._console.say(f"{self.spec.name} died ({_how(code)}); starting it again in {delay_s:g} s")
            self._changed()
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), delay_s)
            except TimeoutError:
                continue

    async def _live(self) -> int:
        """One life of the process, from start to exit code."""
        spec = self.spec
        output, ours, theirs = await _line_pipe()
        try:
            self.process = process = await asyncio.create_subprocess_exec(
                *tethered(spec.command, spec.orphan_signal),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, **spec.env},
                pass_fds=spec.keep_fds,
                start_new_session=True,  # a terminal's Ctrl-C goes to the supervisor alone, which stops all in order
            )
        finally:
            os.close(theirs)
        self._changed()
        if self._stopping or self._restarting:  # asked while it was being started
            self._terminate()
        passing_on = asyncio.create_task(self._pass_on(output))
        watching = asyncio.create_task(self._watch(process, spec.health)) if spec.health else None
        code = await process.wait()
        self.process = None
        if watching is not None:
            watching.cancel()
        # Its last words; not longer, for a child of its own may hold the pipe open.
        await asyncio.wait({passing_on}, timeout=1.0)
        passing_on.cancel()
        ours.close()
        return code

    async def _pass_on(self, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readline()
            except ValueError:  # longer than LINE_BYTES
                line = b"(a line too long to show)\n"
            if not line:
                return
            self._console.line(self.spec.name, line.decode(errors="replace").rstrip("\r\n"))

    async def _watch(self, process: Process, file: Path) -> None:
        """Kill it when it is stuck. Not while it is starting: then it has shown no life yet."""
        while True:
            await asyncio.sleep(LOOK_S)
            sign = await asyncio.to_thread(health.stuck, file)
            if sign is not None and sign.pid == process.pid and process.returncode is None:
                self._console.say(f"{self.spec.name} shows no life any more: killing it")
                self._kill(process)
                return

    def _kill(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _terminate(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):  # gone, and not yet waited for
                self.process.terminate()

    def restart(self) -> None:
        """Stop it and start it again at once; one that waits in a back-off starts now."""
        self._restarting = True
        self.deaths = 0
        self._wake.set()
        self._terminate()

    async def stop(self) -> None:
        """SIGTERM, then, after `stop_s` or `kill`, SIGKILL for it and all it started. Returns when it is gone."""
        self._stopping = True
        self._wake.set()
        self._terminate()
        impatient = asyncio.create_task(self._kill_now.wait())
        await asyncio.wait({self._task, impatient}, timeout=self.spec.stop_s, return_when=asyncio.FIRST_COMPLETED)
        impatient.cancel()
        if self.process is not None and not self._task.done():
            why = "" if self._kill_now.is_set() else f" after {self.spec.stop_s:g} s"
            self._console.say(f"{self.spec.name} has not stopped{why}: killing it")
            self._kill(self.process)
        await self._task

    def kill(self) -> None:
        """Let a `stop` wait no longer."""
        self._kill_now.set()


class Supervisor:
    """A set of children by name. `changed` is called whenever a pid comes or goes."""

    def __init__(self, console: Console, changed: Callable[[], None], first_delay_s: float = 0.5) -> None:
        self.children: dict[str, Child] = {}
        self._console, self._changed, self._first_delay_s = console, changed, first_delay_s
        self._leaving: list[Child] = []

    def start(self, specs: Iterable[Spec]) -> None:
        """Start each, in order."""
        for spec in specs:
            self.children[spec.name] = Child(spec, self._console, self._changed, self._first_delay_s)

    @property
    def pids(self) -> dict[str, int]:
        """Of those that run now."""
        return {name: child.pid for name, child in self.children.items() if child.pid is not None}

    async def stop(self, *groups: Iterable[str]) -> None:
        """Stop one group after the other; the members of a group together. Then whatever is left."""
        for group in (*groups, list(self.children)):
            self._leaving = [self.children[name] for name in group if name in self.children]
            await asyncio.gather(*(child.stop() for child in self._leaving))
            for child in self._leaving:
                del self.children[child.spec.name]

    def hurry(self) -> None:
        """Kill the group that `stop` is waiting for."""
        for child in self._leaving:
            child.kill()


async def _line_pipe() -> tuple[asyncio.StreamReader, asyncio.ReadTransport, int]:
    """A pipe: our end as a reader and its transport, the other as a file descriptor. Ours and not asyncio's own,
    with which `Process.wait` may wait for every holder of the pipe instead of for the process."""
    ours, theirs = os.pipe()
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
    )
    return reader, transport, theirs


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
