"""`ml-service bulk` is killed, and run again: every input has one result, in order."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from local.embedded import EmbeddedServer
from shared import keys
from tests.conftest import wait_until
from tests.e2e.test_cli import CLI, environment, run
from tests.processes import api, worker

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

MODELS = """
models:
  echo:
    task: echo
    versions: {"1": {}}
    batch: {max_size: 64}
    limits: {queue: 50000}
  texts:
    handler: tests/e2e/handlers.py:Lengths
    versions: {"1": {}}
  held:
    handler: tests/e2e/handlers.py:Moody
    versions: {"1": {}}
    batch: {max_size: 64}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("bulk-redis")) as running:
        yield running


@pytest.fixture(scope="module")
def url(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("bulk") / "models.yaml"
    path.write_text(MODELS)
    with worker(server.url, path), api(server.url, path) as found:
        yield found


def texts(count: int) -> list[dict[str, Any]]:
    return [{"text": f"text {n}"} for n in range(count)]


def orders(count: int, gates: dict[int, Path]) -> list[dict[str, Any]]:
    """Those at `gates` wait for as long as their files exist, which this makes."""
    made = [{"do": "ok", "n": n, "flag": "", "journal": ""} for n in range(count)]
    for n, gate in gates.items():
        gate.touch()
        made[n] |= {"do": "hold", "flag": str(gate)}
    return made


def write_inputs(folder: Path, inputs: list[dict[str, Any]]) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(f"{json.dumps(one)}\n" for one in inputs))
    return path


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def begun(url: str, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*CLI, "bulk", *words], env=environment(url), stderr=subprocess.PIPE)


def succeeded(server: EmbeddedServer, model: str) -> int:
    with redis.Redis.from_url(server.url) as store:
        return int(store.hget(f"{keys.COUNTERS}{model}@1", "succeeded") or 0)


def killed_twice(
    url: str,
    server: EmbeddedServer,
    folder: Path,
    model: str,
    inputs: list[dict[str, Any]],
    *,
    how: signal.Signals,
    gates: Sequence[Path | None] = (None, None),
) -> None:
    """And resumed: complete, in order, and nothing was asked for again that the service had. The service comes no
    further than the input that waits for the first of `gates`, which opens when the run that came so far is dead."""
    count, source, out = len(inputs), write_inputs(folder, inputs), folder / "out.jsonl"
    asked = (model, str(source), "-o", str(out))
    before = succeeded(server, model)
    for gate in gates:
        enough = lines(out) + count // 4
        process = begun(url, *asked)
        wait_until(
            lambda process=process, enough=enough: lines(out) >= enough or process.poll() is not None,
            timeout_s=280,
        )
        process.send_signal(how)
        _, err = process.communicate(timeout=30)
        assert process.returncode == (130 if how is signal.SIGINT else -how)
        assert b"Traceback" not in err
        assert how is not signal.SIGINT or b"run it again to go on" in err
        assert 0 < lines(out) < count, "it was killed in the middle"
        if gate is not None:
            gate.unlink()
    with out.open("ab") as file:
        file.write(b'{"index":')  # as if the disk had taken half a line
    _, err = run(url, "bulk", *asked, patience_s=900)
    assert "going on at" in err
    assert f"{count:,} lines: {count:,} succeeded, 0 failed" in err
    assert results(out) == [{"index": n, "state": "succeeded", "output": one} for n, one in enumerate(inputs)]
    assert succeeded(server, model) - before == count, "no input was worked on twice"
    told = json.loads(run(url, "bulk", *asked, "--json")[0])
    assert (told["lines"], told["succeeded"], told["failed"]) == (count, count, 0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_short_one_is_killed_twice(url: str, server: EmbeddedServer, tmp_path: Path, how: signal.Signals) -> None:
    """Batches are of 64 inputs: of 600, the first run gets at least 237 and at most 300, the second 497 to 560."""
    gates = {300: tmp_path / "first", 560: tmp_path / "second"}
    killed_twice(url, server, tmp_path, "held", orders(600, gates), how=how, gates=[*gates.values()])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_20_000_texts_are_killed_twice(url: str, server: EmbeddedServer, tmp_path: Path, how: signal.Signals) -> None:
    killed_twice(url, server, tmp_path, "echo", texts(20_000), how=how)


def test_lines_that_fail_have_their_place(url: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'a plain text\n\n{"text": ""}\n\xff\xfe\n{"broken\n"quoted"\n[{"text": "a"}, {"text": "b"}]\n')
    _, err = run(url, "bulk", "texts", str(source), "-o", str(out), code=3)
    assert "6 lines: 3 succeeded, 3 failed" in err
    found = results(out)
    assert [one["index"] for one in found] == list(range(6))
    states = [one["state"] for one in found]
    assert states == ["succeeded", "failed", "failed", "failed", "succeeded", "succeeded"]
    assert {one["error"]["code"] for one in found if "error" in one} == {"invalid_input"}
    assert found[1]["error"]["errors"][0]["pointer"].endswith("/text")
    assert "UTF-8" in found[2]["error"]["message"]
    assert len(found[5]["output"]) == 2
    run(url, "bulk", "texts", str(source), "-o", str(out), code=3)
    assert results(out) == found


def test_a_line_whose_job_fails(url: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("1\n2\n")
    run(url, "bulk", "echo", str(source), "-o", str(out), "--parameters", '{"fail": "on purpose"}', code=3)
    assert [(one["state"], one["error"]["code"]) for one in results(out)] == [("failed", "predict_error")] * 2
    assert "on purpose" in results(out)[0]["error"]["message"]


def test_what_is_of_another_run_is_left_alone(url: str, tmp_path: Path) -> None:
    source, out = write_inputs(tmp_path, texts(3)), tmp_path / "out.jsonl"
    run(url, "bulk", "echo", str(source), "-o", str(out))
    kept = out.read_bytes()
    assert "another model" in run(url, "bulk", "texts", str(source), "-o", str(out), code=1)[1]
    told = run(url, "bulk", "echo", str(source), "-o", str(out), "--priority", "low", code=1)[1]
    assert "other options" in told
    write_inputs(tmp_path, texts(4))
    assert "another input" in run(url, "bulk", "echo", str(source), "-o", str(out), code=1)[1]
    (tmp_path / "out.jsonl.bulk").unlink()
    assert "of no bulk run" in run(url, "bulk", "echo", str(source), "-o", str(out), code=1)[1]
    assert out.read_bytes() == kept


def test_two_at_once_are_refused(url: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source, out = write_inputs(tmp_path, orders(200, {100: gate})), tmp_path / "out.jsonl"
    process = begun(url, "held", str(source), "-o", str(out))
    wait_until(lambda: lines(out) > 0, timeout_s=60)
    assert "another bulk run" in run(url, "bulk", "held", str(source), "-o", str(out), code=1)[1]
    gate.unlink()
    _, err = process.communicate(timeout=60)
    assert b"200 lines: 200 succeeded" in err


def test_a_service_that_is_away_ends_it_and_leaves_the_lines_open(tmp_path: Path) -> None:
    source, out = write_inputs(tmp_path, texts(3)), tmp_path / "out.jsonl"
    began = time.monotonic()
    _, err = run("http://127.0.0.1:1", "bulk", "echo", str(source), "-o", str(out), code=1)
    assert "no service answers" in err
    assert time.monotonic() - began < 50, "it does not wait for minutes for what was never there"
    assert not lines(out)


def test_an_empty_file(url: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n\n")
    assert "0 lines" in run(url, "bulk", "echo", str(source), "-o", str(out))[1]
    assert out.read_bytes() == b""
