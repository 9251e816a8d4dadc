"""The command line as people and scripts use it: real processes against a real service."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys, scripts
from tests.conftest import wait_until
from tests.processes import REPOSITORY, api, worker

MODELS = """
models:
  bert:
    handler: tests/e2e/handlers.py:Lengths
    versions: {"1": {}}
  echo:
    task: echo
    versions: {"1": {}}
  nobodys:
    handler: tests/e2e/handlers.py:Moody
    versions: {"1": {}}
"""
pytestmark = [pytest.mark.timeout(300), pytest.mark.long]  # many processes

CLI = (sys.executable, "-m", "ml_service_client.cli")
COLOUR = re.compile(r"\x1b\[[0-9;]*3\dm")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("cli-redis")) as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "models.yaml"
    path.write_text(MODELS)
    return path


@pytest.fixture(scope="module")
def url(server: EmbeddedServer, file: Path) -> Iterator[str]:
    quick = {"ML_LEASE_S": "4", "ML_HEARTBEAT_S": "0.5", "ML_MODELS": "bert,echo"}
    with worker(server.url, file, "worker-1", **quick), api(server.url, file) as found:
        yield found


@pytest.fixture
def store(server: EmbeddedServer) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(server.url)
    yield client
    client.close()


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return kept | {"ML_SERVICE_URL": url, "PYTHONPATH": str(REPOSITORY / "client")} | more


def run(
    url: str, *words: str, given: bytes | None = None, code: int = 0, patience_s: float = 60, **more: str
) -> tuple[str, str]:
    """stdout and stderr of one call that is to end with `code`."""
    done = subprocess.run(
        [*CLI, *words], env=environment(url, **more), input=given, capture_output=True, check=False, timeout=patience_s
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, (out, err)
    assert "Traceback" not in err
    assert "\x1b" not in out + err, "no terminal, no escape codes"
    return out, err


def test_submit_takes_what_people_have(url: str, tmp_path: Path) -> None:
    plain, _ = run(url, "submit", "bert", "a text", "--wait")
    as_json, _ = run(url, "submit", "bert", '{"text": "a text"}', "--wait")
    (tmp_path / "in.txt").write_text("a text\n")
    of_file, _ = run(url, "submit", "bert", f"@{tmp_path}/in.txt", "--wait")
    piped, _ = run(url, "submit", "bert", "-", "--wait", "--json", given=b"a text\n")
    assert json.loads(plain) == {"embedding": [1.0, 4.0]}
    assert plain == as_json == of_file
    assert json.loads(piped)["output"] == json.loads(plain)
    assert run(url, "submit", "echo", "42", "--wait")[0] == "42\n"
    assert run(url, "submit", "echo", "some words", "--wait")[0] == '"some words"\n'
    assert run(url, "submit", "echo", "-", "--wait", given=b"\xff\xfe\x00")[0] == '"//4A"\n', "bytes are base64"


def test_a_job_from_its_id_on(url: str, store: redis.Redis) -> None:
    out, _ = run(url, "submit", "nobodys", '{"do": "ok"}', "--priority", "high", "--label", "tenant=acme")
    job_id = out.strip()
    assert store.exists(keys.JOB + job_id)
    told, _ = run(url, "get", job_id)
    assert "state    queued (a worker: none that lives serves nobodys@1)" in told
    assert "labels   tenant=acme" in told
    assert json.loads(run(url, "get", job_id, "--json")[0])["labels"] == {"tenant": "acme"}
    _, waited = run(url, "wait", job_id, "--timeout", "0.3", code=4)
    assert job_id in waited
    assert run(url, "cancel", job_id)[0] == f"{job_id}  canceled\n"
    out, err = run(url, "wait", job_id, code=3)
    assert out == "null\n", "a line for each id"
    assert "canceled" in err
    assert json.loads(run(url, "wait", job_id, "--json", code=3)[0])["state"] == "canceled"
    ids = [run(url, "submit", "echo", str(n))[0].strip() for n in range(3)]
    assert run(url, "wait", *ids)[0] == "0\n1\n2\n"


def test_exit_codes_and_what_is_said(url: str, tmp_path: Path) -> None:
    _, err = run(url, "submit", "bert", '{"text": ""}', code=1)
    assert err.startswith("/input/text: ")
    _, err = run(url, "submit", "bert", '{"text": ""}', "--json", code=1)
    told = json.loads(err)["error"]
    assert (told["code"], told["errors"][0]["pointer"], told["status"]) == ("invalid_input", "/input/text", 422)
    assert "no model 'nope'" in run(url, "submit", "nope", "x", code=1)[1]
    failing = ("submit", "echo", "{}", "--parameters", '{"fail": "on purpose"}', "--wait")
    out, err = run(url, *failing, code=3)
    assert (out, "on purpose" in err) == ("", True)
    slow = ("submit", "echo", "{}", "--parameters", '{"sleep_ms": 20000}', "--wait", "--timeout", "0.3")
    assert "job" in run(url, *slow, code=4)[1]
    for words in (
        ("submit", "echo"),
        ("submit", "echo", "{}", "--parameters", "{"),
        ("submit", "echo", "{}", "--label", "tenant"),
        ("submit", "echo", "{}", "--timeout", "1"),
        ("submit", "echo", "@/nowhere/file"),
        ("purge", "echo"),
        ("requeue",),
        ("requeue", "--filter", "colour=red"),
        ("bulk", "echo", "/nowhere/in.jsonl", "-o", "never.jsonl"),
        ("nonsense",),
        ("get", ""),
        ("cancel", " "),
    ):
        run(url, *words, code=2)
    (tmp_path / "no-text.yaml").write_bytes(b"\xff\xfe\x00")
    assert "no-text.yaml" in run(url, "apply", f"{tmp_path}/no-text.yaml", code=1)[1]
    (tmp_path / "in.jsonl").write_text("{}\n")
    assert "/nowhere/" in run(url, "bulk", "echo", f"{tmp_path}/in.jsonl", "-o", "/nowhere/out.jsonl", code=1)[1]
    assert "no-such-job" in run(url, "cancel", "no-such-job", code=1)[1]
    assert "ML_SERVICE_API_KEY" in run(url, "models", code=2, ML_SERVICE_API_KEY="\u00e9")[1]
    assert "no service answers at http://127.0.0.1:1" in run("http://127.0.0.1:1", "models", code=1)[1]
    assert "http:// or https://" in run("nowhere", "models", code=2)[1]


def test_ctrl_c_says_what_goes_on(url: str) -> None:
    words = ["submit", "nobodys", '{"do": "ok"}', "--wait"]
    process = subprocess.Popen([*CLI, *words], env=environment(url), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with httpx.Client(base_url=url) as http:
        wait_until(lambda: http.get("/health").json()["models"]["nobodys"]["queue_depth"] > 0, what="it is queued")
        ids = {job["id"] for job in http.get("/v1/jobs", params={"model": "nobodys", "state": "queued"}).json()["data"]}
    wait_until(lambda: _held(url), what="it waits for its end, and knows its id")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    found = re.search(r"ml-service cancel (\S+)`", err.decode())
    assert found is not None
    assert found[1] in ids
    run(url, "cancel", found[1])
    run(url, "purge", "nobodys", "--yes")


def _held(url: str) -> bool:
    """Whether the API holds a call until its job has ended."""
    told = re.search(r"^ml_waiting_calls (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return told is not None and float(told[1]) > 0


def test_a_reader_that_has_had_enough(url: str) -> None:
    process = subprocess.Popen([*CLI, "models"], env=environment(url), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.wait(30), process.stderr.read()) == (141, b"")
    process.stderr.close()


def on_terminal(url: str, *words: str, **more: str) -> str:
    """What it writes to a terminal."""
    ours, theirs = pty.openpty()
    env = environment(url, TERM="xterm-256color", **more)
    process = subprocess.Popen([*CLI, *words], env=env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        written += part
    os.close(ours)
    process.wait(30)
    return written.decode()


def test_colours_only_for_people_who_want_them(url: str) -> None:
    assert COLOUR.search(on_terminal(url, "models"))
    assert not COLOUR.search(on_terminal(url, "models", NO_COLOR="1"))
    assert not COLOUR.search(on_terminal(url, "get", "nope", NO_COLOR="1"))


def test_models_and_top(url: str) -> None:
    out, _ = run(url, "models")
    rows = {line.split()[0]: line.split()[1:4] for line in out.splitlines()[1:]}
    assert rows["bert"] == ["lengths", "ready", "1"]
    assert rows["nobodys"][1:] == ["no", "worker"]
    assert "input schema" in run(url, "models", "bert")[0]
    listed = [json.loads(line)["id"] for line in run(url, "models", "--json")[0].splitlines()]
    assert listed == ["bert", "echo", "nobodys"]
    out, _ = run(url, "top", "--once")
    assert re.search(r"^worker-1 +ready +cpu", out, re.MULTILINE)
    seen = json.loads(run(url, "top", "--once", "--json")[0])
    assert {one["model"] for one in seen["models"]} == {"bert", "echo", "nobodys"}
    assert seen["workers"][0]["name"] == "worker-1"
    assert seen["workers"][0]["memory_bytes"] > 0


def test_top_is_live(url: str) -> None:
    words = ["top", "--json", "--interval", "0.3"]
    process = subprocess.Popen([*CLI, *words], env=environment(url), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline())]
    run(url, "submit", "echo", "1", "--wait")
    echo: dict[str, Any] = {}

    def counted() -> bool:
        assert process.stdout is not None
        looks.append(json.loads(process.stdout.readline()))
        echo.update(next(one for one in looks[-1]["models"] if one["model"] == "echo"))
        return bool(echo["jobs_per_s"])

    wait_until(counted, what="a rate")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")


def test_operators(url: str, server: EmbeddedServer, file: Path) -> None:
    assert run(url, "pause", "nobodys")[0] == "nobodys is paused: its jobs wait\n"
    assert json.loads(run(url, "pause", "nobodys", "--json")[0])["changed"] is False
    job_id = run(url, "submit", "nobodys", '{"do": "ok"}')[0].strip()
    assert "paused nobodys" in run(url, "get", job_id)[0]
    assert "paused" in run(url, "models")[0]
    assert run(url, "purge", "nobodys", "--yes")[0] == "1 jobs of nobodys are canceled\n"
    assert run(url, "resume", "nobodys")[0] == "nobodys goes on\n"
    assert run(url, "resume", "nobodys")[0] == "nobodys was not paused\n"
    assert "worker-1" in run(url, "drain", "worker-9", code=1)[1]
    quick = {"ML_LEASE_S": "4", "ML_HEARTBEAT_S": "0.5", "ML_MODELS": "echo"}
    with worker(server.url, file, "worker-2", **quick) as second:
        wait_until(lambda: "worker-2" in run(url, "top", "--once")[0])
        assert run(url, "drain", "worker-2", "--wait")[0].startswith("worker-2 has left: worker-2-")
        assert second.wait(20) == 0


def test_dead_letters(url: str, store: redis.Redis) -> None:
    ids = [
        run(url, "submit", "nobodys", '{"do": "ok"}', "--label", f"tenant={name}")[0].strip()
        for name in ("a", "b", "b")
    ]
    queue = keys.queue_list(keys.queue_name("nobodys", "1"), keys.NORMAL)
    for job_id in ids:
        scripts.run(store, [scripts.drain([queue], [1], process="p"), scripts.bury(job_id, "rejected")])
    out, _ = run(url, "dead", "list", "--filter", "label=tenant:b", "--json")
    letters = [json.loads(line) for line in out.splitlines()]
    assert [letter["job_id"] for letter in letters] == ids[:0:-1]
    assert letters[0]["id"] in run(url, "dead", "list")[0]
    assert "rejected" in run(url, "dead", "show", letters[0]["id"])[0]
    retried = run(url, "dead", "retry", letters[0]["id"])[0].strip()
    assert json.loads(run(url, "get", retried, "--json")[0])["retried_from"] == letters[0]["job_id"]
    assert "is gone" in run(url, "dead", "drop", letters[1]["id"])[0]
    run(url, "dead", "show", letters[1]["id"], code=1)
    assert run(url, "requeue", "--filter", "model=nobodys", "--filter", "label=tenant:b")[0].startswith("0 dead")
    assert json.loads(run(url, "requeue", "--all", "--json")[0]) == {"retried": 1, "failed": []}
    run(url, "purge", "nobodys", "--yes")


def test_jobs_are_listed(url: str) -> None:
    ids = [run(url, "submit", "echo", "1", "--label", f"turn={n}", "--wait", "--json")[0] for n in range(2)]
    first, second = (json.loads(one)["id"] for one in ids)
    listed = [json.loads(line) for line in run(url, "jobs", "--json", "--model", "echo", "-n", "2")[0].splitlines()]
    assert [job["id"] for job in listed] == [second, first]
    out, _ = run(url, "jobs", "--label", "turn=0", "--state", "succeeded", "--state", "failed")
    assert [line.split()[0] for line in out.splitlines()] == ["ID", first]


def test_webhook_secrets(url: str) -> None:
    secret = run(url, "webhooks", "secret")[0]
    assert secret.startswith("whsec_")
    fresh = json.loads(run(url, "webhooks", "rotate", "--grace-days", "2", "--json")[0])
    assert fresh["secret"] not in secret
    assert fresh["previous_until"]


def test_the_page_runs(file: Path, tmp_path: Path) -> None:
    """Every shell block of docs/cli.md, in its order, on a stack of its own: the last lets the worker leave."""
    shim = tmp_path / "bin" / "ml-service"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m ml_service_client.cli "$@"\n')
    shim.chmod(0o755)
    page = (REPOSITORY / "docs" / "cli.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    quick = {"ML_LEASE_S": "4", "ML_HEARTBEAT_S": "0.5", "ML_MODELS": "bert,echo"}
    with (
        EmbeddedServer(tmp_path / "redis") as own,
        worker(own.url, file, "worker-1", **quick),
        api(own.url, file) as here,
    ):
        env = environment(here, PATH=f"{shim.parent}:{os.environ['PATH']}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(one["index"], one["state"]) for one in results] == [(n, "succeeded") for n in range(3)]
    assert "3 out.jsonl" in done.stdout


def test_the_page_tells_every_command(url: str) -> None:
    out, _ = run(url, "--help", COLUMNS="200")
    commands = set(re.findall(r"^│ ([a-z]+) ", out, re.MULTILINE))
    page = (REPOSITORY / "docs" / "cli.md").read_text()
    assert commands
    assert {name for name in commands if not re.search(rf"[`, ]{name}[`, ]", page)} == set()
