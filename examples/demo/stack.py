"""Starts `local up` on a folder of its own, shows what becomes ready, and stops it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from local.server import tethered
from shared.catalog import load_catalog

ROOT = Path(__file__).resolve().parents[2]
START_S, STOP_S = 300.0, 90.0


class DemoFailed(Exception):
    """The demo did not do what it shows; the text says why."""


@contextlib.contextmanager
def running(
    folder: Path, port: int, flower_port: int, console: Console, *, models: Path = ROOT / "models.yaml"
) -> Iterator[dict[str, str]]:
    """The stack, ready: `state.json`'s URLs. After it nothing of it runs; an unclean stop is a DemoFailed."""
    log = folder / "up.log"
    command = [sys.executable, "-m", "local", "up", "--data-dir", str(folder / "data"), "--port", str(port)]
    command += ["--flower-port", str(flower_port), "--models", str(models)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("ML_")}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own program
            tethered(command, signal.SIGTERM),
            cwd=ROOT,
            env=env | {"HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to the demo, which then stops it
        )
    pids: list[int] = []
    try:
        state = _wait_ready(process, folder / "data" / "state.json", log, console, list(load_catalog(models).models))
        pids = list(state["processes"].values())
        yield {name: url for name, url in state.items() if name.endswith("_url")}
    finally:
        with console.status("stopping everything"):
            code = _stop(process)
    left = [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and _is_live(pid)]
    if code != 0 or left:
        raise DemoFailed(f"the stack did not stop cleanly (exit code {code}, still running: {left})\n{_tail(log)}")


def _wait_ready(
    process: subprocess.Popen[bytes], state_file: Path, log: Path, console: Console, models: list[str]
) -> dict:
    give_up = time.monotonic() + START_S
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress, httpx.Client(timeout=5) as client:
        bar = progress.add_task("starting the queue", total=3 + len(models))

        def step(doing: str, condition: Callable[[], object]) -> None:
            progress.update(bar, description=doing)
            while not condition():
                if process.poll() is not None:
                    raise DemoFailed(f"the stack did not start\n{_tail(log)}")
                if time.monotonic() > give_up:
                    raise DemoFailed(f"not ready within {START_S:g} s: {doing}\n{_tail(log)}")
                time.sleep(0.1)
            progress.advance(bar)
            console.print(f"  [green]✓[/] {doing} [dim]{progress.tasks[0].elapsed or 0:.1f} s[/]", highlight=False)

        step("starting the queue", lambda: "worker-1" in _state(state_file).get("processes", {}))
        state = _state(state_file)
        step("starting the API", lambda: _ok(client, f"{state['api_url']}/readyz"))
        for model in models:
            step(f"loading {model}", lambda model=model: _ok(client, f"{state['api_url']}/readyz?model={model}"))
        step("starting Flower", lambda: _ok(client, f"{state['flower_url']}/healthcheck"))
    return _state(state_file)


def _state(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def _ok(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()  # the kernel ends its children with it
        process.wait()
        return 137


def _is_live(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])
