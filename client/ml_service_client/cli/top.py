"""`ml-service top`: workers, devices, queues and rates, live."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from ml_service_client import SyncMLServiceClient
from ml_service_client.cli import exposition
from ml_service_client.cli.service import Url, client
from ml_service_client.cli.terminal import AsJson, console, made_table, show_json, size, span
from ml_service_client.core.config import HERE
from ml_service_client.errors import MLServiceError
from ml_service_client.problems import Forbidden
from ml_service_client.types import Json, instant

_BAR = 10


@dataclass(slots=True)
class Seen:
    """One look at the service. `workers` None: this key may not see them."""

    at: float
    models: list[Json] = field(default_factory=list)
    workers: list[Json] | None = None
    dead_letters: int | None = None


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="one look, for scripts")] = False,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.2, help="seconds between two looks")] = 2.0,
    as_json: AsJson = False,
    url: Url = HERE,
) -> None:
    """Workers, devices, memory, queues, rates and batch sizes, live; Ctrl-C ends it. Needs a key of the scope admin.
    With --json a line for each look."""
    screen = console()
    with client(url) as service:
        seen = look(service, None)
        if once or as_json or not screen.is_terminal:
            while True:
                show_json(told(seen)) if as_json else screen.print(drawn(seen, service.base_url), soft_wrap=False)
                if once or not as_json:
                    return
                time.sleep(interval)
                seen = look(service, seen)
        with Live(drawn(seen, service.base_url), console=screen, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                seen, trouble = _again(service, seen)
                live.update(drawn(seen, service.base_url, trouble), refresh=True)


def _again(service: SyncMLServiceClient, before: Seen) -> tuple[Seen, str]:
    """The next look; where the service does not answer, the last one and why."""
    import httpx

    try:
        return look(service, before), ""
    except (MLServiceError, httpx.TransportError) as error:
        return before, str(error) or type(error).__name__


def look(service: SyncMLServiceClient, before: Seen | None) -> Seen:
    """Rates of models are of the time since `before`."""
    seen = Seen(time.monotonic())
    metrics = exposition.read(service.client.get("/metrics"))
    seen.models = [_model(metrics, labels) for labels in metrics.labels("ml_queue_depth")]
    letters = metrics.value("ml_dead_letters")
    seen.dead_letters = None if letters is None else int(letters)
    if before is not None:
        old = {(one["model"], one["version"]): one for one in before.models}
        for one in seen.models:
            last = old.get((one["model"], one["version"]))
            if last is not None:
                one["jobs_per_s"] = round(max(0, one["ended"] - last["ended"]) / (seen.at - before.at), 2)
    try:
        seen.workers = service.request("GET", "/v1/workers")["data"]
    except Forbidden:
        seen.workers = None
    return seen


def _model(metrics: exposition.Metrics, labels: dict[str, str]) -> Json:
    def jobs(state: str) -> int:
        return int(metrics.value("ml_jobs", **labels, state=state) or 0)

    return {
        **labels,
        "queued": jobs("queued"),
        "delayed": jobs("delayed"),
        "running": jobs("running"),
        "ended": jobs("succeeded") + jobs("failed") + jobs("canceled"),
        "failed": jobs("failed"),
        "oldest_s": metrics.value("ml_queue_oldest_seconds", **labels),
        "queue_limit": metrics.value("ml_queue_limit", **labels),
        "workers": int(metrics.value("ml_serving_workers", **labels) or 0),
        "paused": bool(metrics.value("ml_model_paused", model=labels["model"])),
        "jobs_per_s": None,
    }


def told(seen: Seen) -> Json:
    """For programs."""
    return {"models": seen.models, "workers": seen.workers, "dead_letters": seen.dead_letters}


def drawn(seen: Seen, url: str, trouble: str = "") -> RenderableType:
    """For people."""
    queued, running = sum(one["queued"] for one in seen.models), sum(one["running"] for one in seen.models)
    rates = [one["jobs_per_s"] for one in seen.models if one["jobs_per_s"] is not None]
    if not rates and seen.workers:
        rates = [one["jobs_per_s"] or 0.0 for one in seen.workers]
    head = (
        f"{url}   queued {queued}   running {running}   {sum(rates):.1f} jobs/s   dead letters {seen.dead_letters or 0}"
    )
    parts: list[RenderableType] = [Text(head, style="bold")]
    if trouble:
        parts.append(Text(trouble, style="red"))
    parts += [Text(""), _models(seen.models), Text("")]
    if seen.workers is None:
        parts.append(Text("workers: this key may not see them (scope admin)", style="yellow"))
    elif not seen.workers:
        parts.append(Text("no worker lives", style="red"))
    else:
        parts.append(_workers(seen.workers))
    return Group(*parts)


def _models(models: list[Json]) -> RenderableType:
    rows = [
        (
            f"{one['model']}@{one['version']}",
            "paused" if one["paused"] else "ready" if one["workers"] else "no worker",
            one["workers"],
            one["queued"] + one["delayed"],
            one["running"],
            None if not one["oldest_s"] else span(one["oldest_s"]),
            None if one["jobs_per_s"] is None else f"{one['jobs_per_s']:.1f}",
            one["ended"],
            one["failed"],
        )
        for one in models
    ]
    return made_table(
        ["MODEL", "STATE", ">WORKERS", ">QUEUED", ">RUNNING", ">OLDEST", ">JOBS/S", ">ENDED", ">FAILED"], rows
    )


def _workers(workers: list[Json]) -> RenderableType:
    rows = [
        (
            one["name"],
            one["state"],
            _device(one),
            _busy(one["busy"]),
            None if one["jobs_per_s"] is None else f"{one['jobs_per_s']:.1f}",
            None if one["batch_size"] is None else f"{one['batch_size']:g}",
            one["held"],
            size(one["memory_bytes"]),
            _memory(one["device_memory"]),
            _since(one["started_at"]),
            " ".join(f"{model['model']}@{model['version']}" for model in one["models"] if model["state"] == "ready"),
        )
        for one in workers
    ]
    columns = [
        "WORKER",
        "STATE",
        "DEVICE",
        "BUSY",
        ">JOBS/S",
        ">BATCH",
        ">HELD",
        ">MEMORY",
        ">GPU MEM",
        ">UP",
        "MODELS",
    ]
    return made_table(columns, rows)


def _device(worker: Json) -> str | None:
    gpu = worker["gpu"]
    return worker["device"] if gpu is None else f"gpu{gpu['index']} {gpu['name']}"


def _busy(share: float | None) -> str | None:
    if share is None:
        return None
    return f"{'|' * round(share * _BAR):.<{_BAR}} {share:4.0%}"


def _memory(memory: dict[str, Any] | None) -> str | None:
    return None if memory is None else f"{size(memory['used_bytes'])} of {size(memory['total_bytes'])}"


def _since(started_at: str | None) -> str | None:
    at = instant(started_at)
    return None if at is None else span(time.time() - at.timestamp())
