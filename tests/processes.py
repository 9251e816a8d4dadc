"""Real worker and API processes for end-to-end tests: started as a user starts them, stopped by pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import redis

from local.ports import free_port
from shared import credentials, keys
from shared.settings import Settings
from shared.store import connect
from tests.conftest import wait_until

REPOSITORY = Path(__file__).parent.parent
WORKER = (sys.executable, "-m", "worker")
API = (sys.executable, "-m", "api")
FLOWER = (sys.executable, "-m", "celery", "-A", "worker.app", "flower", "--conf=worker/flowerconfig.py")


def environment(redis_url: str, models: Path, **extra: str) -> dict[str, str]:
    """As a container would set it."""
    return os.environ | {
        "ML_REDIS_URL": redis_url,
        "ML_MODELS_FILE": str(models),
        "ML_DEVICE": "cpu",
        "ML_LOG_FORMAT": "text",
        "HF_HUB_OFFLINE": "1",
        **extra,
    }


@contextmanager
def worker(
    redis_url: str,
    models: Path,
    name: str = "w1",
    *,
    program: Sequence[str] = WORKER,
    output: int | None = None,
    **extra: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m worker` (or another program in its place), ready when it yields; killed at the end if the test has not
    stopped it. `output`: a descriptor for all that it says."""
    store = connect(Settings(redis_url=redis_url))
    process = subprocess.Popen(
        program,
        env=environment(redis_url, models, ML_WORKER_NAME=name, **extra),
        cwd=REPOSITORY,
        stdout=output,
        stderr=output,
    )
    try:
        wait_until(lambda: _alive(store, name, process), timeout_s=60, what=f"worker {name} ready")
        yield process
    finally:
        _stop(process)
        store.close()


def _alive(store: redis.Redis, name: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the worker has exited"
    return any(key.decode().startswith(f"{keys.WORKER}{name}-") for key in store.scan_iter(f"{keys.WORKER}*"))


def refused_worker(env: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """`python -m worker`, or another command, that is expected not to start: its exit code and what it said."""
    return subprocess.run(
        [sys.executable, "-m", *(command or ("worker",))],
        env=env,
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@contextmanager
def api(
    redis_url: str,
    models: Path,
    *,
    program: Sequence[str] = API,
    output: int | None = None,
    port: int | None = None,
    **extra: str,
) -> Iterator[str]:
    """`python -m api` (or another program in its place) on `port`, or on a free one; its URL. `output`: a descriptor
    for all that it says."""
    port = port or free_port()
    process = subprocess.Popen(
        program,
        env=environment(redis_url, models, ML_PORT=str(port), **extra),
        cwd=REPOSITORY,
        stdout=output,
        stderr=output,
    )
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, "the API has exited"
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(ready, timeout_s=30, what="API ready")
        yield url
    finally:
        _stop(process)


@contextmanager
def flower_process(
    redis_url: str, models: Path, *, workers: int = 1, folder: Path | None = None
) -> Iterator[httpx.Client]:
    """A client, with the login, of a real Flower that sees so many workers. What it has seen, and its password, lie in
    `folder` (by default beside the models file)."""
    port, folder = free_port(), folder or models.parent / "flower"
    credentials.make(folder)
    file = credentials.password_file(folder, "flower")
    login = (credentials.FLOWER_USER, credentials.read_password(file, "flower"))
    kept = {"FLOWER_PERSISTENT": "true", "FLOWER_DB": str(folder / "state")}
    process = subprocess.Popen(
        [*FLOWER, "--address=127.0.0.1", f"--port={port}"],
        env=environment(redis_url, models, FLOWER_PASSWORD_FILE=str(file), **kept),
        cwd=REPOSITORY,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, auth=login) as client:
            wait_until(lambda: _workers_of(client) >= workers, what="Flower sees the workers")
            yield client
    finally:
        process.terminate()
        process.wait(20)


def _workers_of(flower: httpx.Client) -> int:
    try:
        return len(flower.get("/api/workers", params={"refresh": 1}).json())
    except (httpx.TransportError, ValueError):
        return 0


def queue_ms(http: httpx.Client) -> float:
    """How long a lone job of the model echo waited for its worker."""
    job = http.post("/v1/jobs", json={"model": "echo", "input": 1}, headers={"Prefer": "wait=20"}).json()
    assert job["state"] == "succeeded"
    waited: float = job["timing"]["queue_ms"]
    return waited


@contextmanager
def api_process(
    redis_url: str, models: Path, log: Path, listen: socket.socket, **extra: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m api` on a listening socket that it may share with others; what it says goes to `log`. Ready when it
    yields: not by a request, which any of those others may answer."""
    fd = listen.fileno()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api"],
            env=environment(redis_url, models, ML_LISTEN_FD=str(fd), **extra),
            cwd=REPOSITORY,
            stderr=output,
            pass_fds=[fd],
        )

    def started() -> bool:
        assert process.poll() is None, log.read_text()
        return b" started " in log.read_bytes()

    try:
        wait_until(started, timeout_s=30, what="API started")
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError("it did not stop within 15 s of SIGTERM") from None
