"""The pure parts of the comparison with the peers: its catalogue, how it speaks to each, its tables and its picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import report
from benchmarks.peers.__main__ import COMMAND, FULL, SWEEP
from benchmarks.peers.picture import draw
from benchmarks.peers.running import SERVERS, started
from benchmarks.peers.systems import GROUPS, OURS, SYSTEMS, System

PEERS = [system for system in SYSTEMS.values() if system.name != OURS]


def row(level: str, ratio: float | None, foreign: float = 0.0) -> dict[str, Any]:
    told = {"level": level, "p50_ms": 10.4, "p95_ms": 20.0, "sentences_per_s": 50.0}
    told |= {"foreign_cores": foreign, "foreign_cores_limit": 0.0}
    if ratio is None:
        return told
    told |= {"ratio": ratio, "limit_per_s": 50.0 / ratio, "stack_cpu_s_per_1000": 33.0}
    return told | {"idle_stack_cores": 0.02, "peak_rss_mb": 800.0, "pss_mb": 600.0}


def one(*ratios: float, foreign: float = 0.0) -> dict[str, Any]:
    found = [row(step.level.name, ratio, foreign) for step, ratio in zip(FULL.steps, ratios, strict=True)]
    echo = [row("c1", None) | {"stack_cpu_ms": 1.5}]
    return {"startup_s": [4.0], "levels": [*found, row("c1 right after c128", None)], "echo": echo}


@pytest.fixture
def data() -> dict[str, Any]:
    quiet = {OURS: one(0.5, 0.8, 0.9, 0.9, 0.95), "naive": one(0.7, 0.6, 0.6, 0.6, 0.6) | {"echo": []}}
    loud = {OURS: one(0.1, 0.1, 0.1, 0.1, 0.1, foreign=1.0), "naive": quiet["naive"]}
    return {
        "when": "now",
        "command": COMMAND,
        "pass_size": 16,
        "machine": {"cores": 2, "cpu": "a", "vector_units": [], "memory_gb": 1, "system": "b", "python": "c"}
        | {"versions": {}},
        "texts": {"count": 256, "seed": 1, "sha256": "0"},
        "variants": {name: dict(SYSTEMS[name].best) for name in quiet},
        "rounds": [quiet, loud],
    }


@pytest.mark.parametrize("system", PEERS, ids=lambda system: system.name)
def test_a_peer_has_its_files_and_uses_variants_that_it_has(system: System) -> None:
    assert set(system.best) == set(GROUPS)
    assert set(system.best.values()) <= set(system.variants)
    servers = re.findall(r"\w+_server", " ".join(system.programs))
    assert servers
    assert all((SERVERS / f"{name}.py").exists() for name in servers)
    assert all(re.fullmatch(r"[\w.\[\],-]+==[\w.]+", package) for package in report.packages(system))


@pytest.mark.parametrize("file", sorted(SERVERS.glob("*.py")), ids=lambda file: file.name)
def test_a_peers_server_needs_nothing_of_this_project(file: Path) -> None:
    ours = r"^\s*(from|import) (api|worker|shared|local|benchmarks|ml_service_client)\b"
    assert not re.search(ours, file.read_text(), re.MULTILINE)


def test_answers_are_read_as_each_system_writes_them() -> None:
    assert SYSTEMS[OURS].vectors({"output": {"embedding": [1]}}) == [[1]]
    assert SYSTEMS[OURS].vectors({"output": {"embeddings": [[1], [2]]}}) == [[1], [2]]
    assert SYSTEMS["infinity"].vectors({"data": [{"embedding": [1]}]}) == [[1]]
    assert SYSTEMS["bentoml"].vectors([[1]]) == SYSTEMS["ray"].vectors({"embeddings": [[1]]}) == [[1]]


def test_one_text_and_several_are_asked_for_in_our_own_way() -> None:
    assert SYSTEMS[OURS].body(["a"]) == {"model_type": "bert", "data": {"text": "a"}}
    assert SYSTEMS[OURS].body(["a", "b"]) == {"model_type": "bert", "data": {"texts": ["a", "b"]}}


def test_the_tables_leave_disturbed_rounds_out_and_mark_the_best(data: dict[str, Any]) -> None:
    text = report.whole(data)
    assert "| ml-service | 0.50 | **0.80** | **0.90** | **0.90** | **0.95** |" in text
    assert "| FastAPI, inline | **0.70** | 0.60 | 0.60 | 0.60 | 0.60 |" in text
    assert "| c1 | ml-service | 50.0 | 100.0 | **0.50** (0.50-0.50) | 10 | 20 | 33.0 | 1/2 |" in text
    assert "|  | FastAPI, inline | 50.0 | 71.4 | **0.70** (0.70-0.70) | 10 | 20 | 33.0 | 2/2 |" in text
    assert "| ml-service | c1 | 50 | 10.4 | 20.0 | 1.5 | 2/2 |" in text
    assert "| ml-service | 4.0 | 800 | 600 | 2.0% | as it is |" in text


def test_the_lone_requests_after_the_flood_stand_beside_the_fresh_ones(data: dict[str, Any]) -> None:
    assert "| ml-service | 10 | 20 | 10 | 20 |" in report.after(data["rounds"], list(data["variants"]))


def test_the_sweep_marks_the_best_variant_of_each_level_and_what_is_used() -> None:
    used = SYSTEMS["naive"].best["lone"]
    other = next(variant for variant in SYSTEMS["naive"].variants if variant != used)
    found = {"naive": {used: {"levels": [row("c1", 0.7)]}, other: {"levels": [row("c1", 0.6)]}}}
    lines = report.sweep(found).splitlines()
    assert lines[0] == "| system | variant | c1 | used for |"
    assert lines[2].startswith(f"| FastAPI, inline | {used} | **0.70** | lone")
    assert lines[3] == f"| FastAPI, inline | {other} | 0.60 |  |"


def test_the_page_has_the_marks(repository: Path) -> None:
    page = (repository / "docs" / "benchmarks" / "peers.md").read_text()
    for command in (COMMAND, SWEEP):
        assert (
            page.count(f"<!-- made by `{command}`: begin -->") == page.count(f"<!-- made by `{command}`: end -->") == 1
        )


def test_the_picture_is_drawn(data: dict[str, Any], tmp_path: Path) -> None:
    draw(tmp_path / "peers.png", report.ratios(data), "a caption")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_a_server_that_ends_at_once_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peers.running.START_S", 3)
    monkeypatch.setattr("benchmarks.peers.running.python", lambda system: Path("/bin/ls"))
    broken = System("broken", "Broken", ("--no-such-option",))
    with pytest.raises(RuntimeError, match="no-such-option"), started(broken, {}, tmp_path / "broken"):
        pass
