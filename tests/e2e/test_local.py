"""`python -m local up` with the real API, worker, Flower and server: starts, heals, refuses, stops, keeps jobs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from shared import keys

pytestmark = pytest.mark.long

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 1}
"""
MINE = """
from typing import Any
from worker.handler import Handler, FreeForm

class Mine(Handler[FreeForm, Any]):
    example = [{}]

    def predict(self, batch):
        return [SAY for _ in batch]
"""


class Up:
    """One run of `up` on `folder`."""

    def __init__(self, folder: Path, *arguments: str, models: str = MODELS, **settings: str) -> None:
        self.data, self._log = folder / "data", folder / f"up-{time.monotonic_ns()}.log"
        (folder / "models.yaml").write_text(models)
        env = {name: value for name, value in os.environ.items() if not name.startswith("ML_")} | settings
        command = [sys.executable, "-m", "local", "up", "--data-dir", str(self.data), "--port", "0"]
        command += ["--flower-port", "0", "--models", str(folder / "models.yaml"), *arguments]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    @property
    def words(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.data / "state.json").read_text())

    def until(self, condition: Callable[[], object], timeout_s: float = 60) -> None:
        give_up = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up, self.words
            assert self.process.poll() is None, self.words
            time.sleep(0.05)

    def ready(self) -> Up:
        self.until(lambda: "ml-service | ready" in self.words)
        return self

    def pid(self, name: str) -> int:
        return self.state["processes"].get(name, 0)

    def replaced(self, name: str) -> None:
        """Kill -9 the process; returns when another runs in its place and answers."""
        before = self.pid(name)
        os.kill(before, signal.SIGKILL)
        self.until(lambda: self.pid(name) not in (0, before))
        self.until(lambda: f"{name} died (SIGKILL); starting it again" in self.words)

    def submit(self, value: Any, **more: Any) -> str:
        answer = httpx.post(f"{self.state['api_url']}/v1/jobs", json={"model": "echo", "input": value, **more})
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def job(self, job_id: str, wait_s: float = 30) -> dict[str, Any]:
        answer = httpx.get(f"{self.state['api_url']}/v1/jobs/{job_id}", params={"wait": wait_s}, timeout=wait_s + 10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def flower_knows(self, job_id: str) -> bool:
        login = ("admin", (self.data / "secrets" / "flower" / "password").read_text().strip())
        url = f"{self.state['flower_url']}/api/task/info/{job_id}"
        return httpx.get(url, auth=login, timeout=20).status_code == 200

    def in_flower(self, ids: list[str]) -> str:
        """One of these that Flower knows. It hears only from some moment on, so more are submitted, and added."""

        def found() -> str | None:
            ids.append(self.submit(len(ids)))
            return next(filter(self.flower_knows, ids), None)

        self.until(found)
        return next(filter(self.flower_knows, ids))

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Signal it; its exit code, once all it started is gone."""
        with watching(self.state["processes"].values()) as gone:
            self.process.send_signal(number)
            code = self.process.wait(60)
            gone()
        return code


@contextlib.contextmanager
def watching(pids: Any) -> Iterator[Callable[[], None]]:
    """Gives a function that asserts that each of these very processes ends (a pid alone could be another's later)."""
    watches = {pid: os.pidfd_open(pid) for pid in pids}

    def gone() -> None:
        for pid, watch in watches.items():
            assert select.select([watch], [], [], 10)[0], f"process {pid} outlived `up`"

    try:
        yield gone
    finally:
        for watch in watches.values():
            os.close(watch)


@contextlib.contextmanager
def running(folder: Path, *arguments: str, models: str = MODELS, **settings: str) -> Iterator[Up]:
    up = Up(folder, *arguments, models=models, **settings)
    try:
        yield up.ready()
    finally:
        if up.process.poll() is None:
            up.process.send_signal(signal.SIGTERM)
            up.process.wait(60)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up"), "--workers", "2", "--apis", "2") as one:
        yield one


def test_state_tells_what_runs_and_where(up: Up) -> None:
    state = up.state
    assert set(state) == {"api_url", "flower_url", "redis_url", "processes"}
    assert set(state["processes"]) == {"redis", "api-1", "api-2", "worker-1", "worker-2", "flower"}
    for name, word in {
        "redis": "server",
        "api-1": "api",
        "api-2": "api",
        "worker-1": "worker",
        "flower": "flower",
    }.items():
        assert word in Path(f"/proc/{state['processes'][name]}/cmdline").read_text()
    assert httpx.get(f"{state['api_url']}/health").status_code == 200
    assert httpx.get(f"{state['flower_url']}/healthcheck").status_code == 200
    assert state["api_url"] in up.words
    assert state["flower_url"] in up.words


def test_other_users_of_the_machine_reach_neither_redis_nor_flower(up: Up) -> None:
    flower, open_url = up.state["flower_url"], f"redis://127.0.0.1:{up.state['redis_url'].rpartition(':')[2]}"
    with redis.Redis.from_url(up.state["redis_url"]) as ours, redis.Redis.from_url(open_url) as theirs:
        assert ours.ping()
        with pytest.raises(redis.AuthenticationError):
            theirs.ping()
        come = [one["addr"].lstrip("[") for one in ours.client_list()]
    path = str(up.data.resolve() / "redis" / "redis.sock")
    assert len([addr for addr in come if addr.startswith(path)]) >= 6, come
    assert Path(path).stat().st_mode & 0o177 == 0
    assert httpx.get(flower).status_code == 401
    file = up.data / "secrets" / "flower" / "password"
    assert f"user admin, password in {file}" in up.words
    password = file.read_text().strip()
    assert httpx.get(flower, auth=("admin", password)).status_code == 200
    seen = up.words
    for pid in up.state["processes"].values():
        seen += Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
    for secret in (password, (up.data / "secrets" / "redis" / "password").read_text().strip()):
        assert secret not in seen
    for path in (up.data, file, up.data / "state.json"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_answers_and_both_workers_work(up: Up) -> None:
    url = f"{up.state['api_url']}/inference"
    answer = httpx.post(url, json={"model_type": "echo", "data": {"a": 1}}, timeout=30)
    assert (answer.status_code, answer.json()["output"]) == (200, {"a": 1})
    ids = [up.submit(i, parameters={"sleep_ms": 200}) for i in range(10)]
    jobs = [up.job(one) for one in ids]
    assert [job["output"] for job in jobs] == list(range(10))
    assert {job["timing"]["worker"] for job in jobs} == {"worker-1", "worker-2"}


@pytest.mark.parametrize("name", ["worker-1", "api-1", "flower", "redis"])
def test_a_killed_process_is_replaced_and_jobs_go_on(up: Up, name: str) -> None:
    up.replaced(name)
    up.until(lambda: _answers(f"{up.state['api_url']}/readyz?model=echo"))
    assert up.job(up.submit(name))["output"] == name
    up.until(lambda: _answers(f"{up.state['flower_url']}/healthcheck"))


def test_nobody_is_refused_while_every_api_is_dead(up: Up) -> None:
    names = ("api-1", "api-2")
    with watching([up.pid(name) for name in names]) as gone:
        for name in names:
            os.kill(up.pid(name), signal.SIGKILL)
        gone()
        answer = httpx.get(f"{up.state['api_url']}/livez", timeout=30)  # in the backlog until there is one
    assert answer.status_code == 200


def test_a_second_one_on_the_folder_is_refused(up: Up) -> None:
    second = Up(up.data.parent)
    assert second.process.wait(30) == 1
    assert f"(pid {up.process.pid})" in second.words
    assert str(up.data) in second.words
    assert up.pid("api-1"), "the first one's state is untouched"


def test_a_taken_port_is_refused_by_its_option(up: Up, tmp_path: Path) -> None:
    port = up.state["api_url"].rpartition(":")[2]
    second = Up(tmp_path, "--port", port)
    assert second.process.wait(30) == 1
    assert f"port {port} is taken by another program; choose one with --port" in second.words


def test_where_others_come_it_waits_for_the_first_key(tmp_path: Path) -> None:
    up = Up(tmp_path, "--host", "0.0.0.0")  # noqa: S104 - what is tested
    try:
        command = [sys.executable, "-m", "api", "keys", "create", "--name", "me", "--scope", "admin"]
        up.until(lambda: "keys create" in up.words)
        told = next(line for line in up.words.splitlines() if "keys create" in line).split("| ")[1].split()
        assert [told[0], *told[2:5]] == [f"ML_DATA_DIR={up.data}", *command[1:4]], "as it is told, it works"
        up.until(lambda: up.pid("worker-1"))
        assert not up.pid("api")
        made = subprocess.run(
            command, env=os.environ | {"ML_DATA_DIR": str(up.data)}, capture_output=True, text=True, check=True
        )
        secret = next(line.split()[1] for line in made.stdout.splitlines() if line.startswith("secret"))
        url, asked = up.ready().state["api_url"], {"model_type": "echo", "data": 1}
        assert httpx.post(f"{url}/inference", json=asked).status_code == 401
        answer = httpx.post(f"{url}/inference", json=asked, headers={"X-API-Key": secret}, timeout=30)
        assert answer.json()["output"] == 1
        assert secret not in up.words
        assert up.stop() == 0
    finally:
        up.process.kill()
        up.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stops_cleanly_and_keeps_what_it_accepted(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as first:
        ids = [first.submit(i, parameters={"sleep_ms": 700}) for i in range(6)]
        first.until(lambda: first.job(ids[0], wait_s=0)["state"] != "queued")
        known = first.in_flower(ids)
        assert first.stop(number) == 0
        assert not (first.data / "state.json").exists()
        assert "killing it" not in first.words
        order = [first.words.index(line) for line in ("ml-service | stopping", "ml-service | stopped")]
        assert order == sorted(order)
    with running(tmp_path) as second:
        assert [second.job(one)["output"] for one in ids] == list(range(len(ids)))
        assert second.flower_knows(known)


def test_a_stop_refuses_newcomers_at_once_and_answers_who_waits(tmp_path: Path) -> None:
    with running(tmp_path) as up, ThreadPoolExecutor(1) as pool:
        url, job_id = up.state["api_url"], up.submit("held", parameters={"sleep_ms": 5000})
        waiting = pool.submit(up.job, job_id)
        with redis.Redis.from_url(up.state["redis_url"]) as store:
            up.until(lambda: store.hexists(keys.JOB + job_id, "waiters"))
        up.process.send_signal(signal.SIGINT)
        up.until(lambda: not _answers(f"{url}/livez"))
        assert not waiting.done()
        assert waiting.result()["output"] == "held"
        assert up.process.wait(60) == 0


def test_a_killed_one_leaves_no_process_and_the_next_starts_at_once(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        job = first.submit("kept")
        first.job(job)
        with watching(first.state["processes"].values()) as gone:
            first.process.kill()
            first.process.wait()
            gone()
    # And with the models file as it is by then: what it has killed is not taken for living workers.
    changed = MODELS.replace('"1": {}', '"1": {source: other}') + "    limits: {queue: 77}\n"
    with running(tmp_path, models=changed) as second:
        assert second.job(job)["output"] == "kept"
        entry = httpx.get(f"{second.state['api_url']}/v1/models/echo").json()
        assert (entry["limits"]["queue"], entry["rollout"]) == (77, None)


def test_gives_up_when_a_process_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import no_such_module")
    models = f"models: {{mine: {{handler: '{tmp_path}/mine.py:Mine', versions: {{'1': {{}}}}}}}}"
    broken = Up(tmp_path, models=models)
    assert broken.process.wait(100) == 1
    assert "no_such_module" in broken.words
    assert "giving up" in broken.words
    assert not (broken.data / "state.json").exists()


def test_a_models_file_with_a_fault_is_refused_by_its_line(tmp_path: Path) -> None:
    wrong = Up(tmp_path, models="models:\n  echo:\n    task: nonsense\n    versions: {'1': {}}\n")
    assert wrong.process.wait(30) == 1
    assert "line 2" in wrong.words
    assert "nonsense" in wrong.words


def test_reload_restarts_the_worker_of_a_changed_handler(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(MINE.replace("SAY", "'before'"))
    models = f"models: {{mine: {{handler: '{mine}:Mine', versions: {{'1': {{}}}}}}}}"
    with running(tmp_path, "--reload", models=models) as up:
        url, api = f"{up.state['api_url']}/inference", up.pid("api")

        def says(text: str) -> bool:
            answer = httpx.post(url, json={"model_type": "mine", "data": {}}, timeout=40)
            return answer.status_code == 200 and answer.json()["output"] == text

        assert says("before")
        mine.write_text(MINE.replace("SAY", "'after'"))
        up.until(lambda: "files changed: restarting worker-1" in up.words)
        up.until(lambda: says("after"))
        assert up.pid("api") == api
        assert "died" not in up.words


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.TransportError:
        return False
