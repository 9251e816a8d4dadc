"""The benchmark's own parts: its texts are the same for a seed, and its arithmetic is right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import auto, forward, machine, page, report
from benchmarks.client import Answers, Stretch, around, full_load
from benchmarks.figures import mean_batch, median, percentile
from benchmarks.machine import Foreign, Meter, tree
from benchmarks.report import clean
from benchmarks.texts import LONGEST, SHORTEST, fingerprint, texts
from worker.batcher import Batcher, Budget
from worker.device import try_lock


def test_the_texts_are_the_same_for_a_seed_and_other_for_another() -> None:
    made = texts(50)
    assert texts(50) == made
    assert texts(20) == made[:20]
    assert fingerprint(texts(50)) == fingerprint(made)
    assert fingerprint(texts(50, seed=1)) != fingerprint(made)


def test_the_texts_are_of_mixed_length() -> None:
    words = [len(text.split()) for text in texts(2000)]
    assert min(words) == SHORTEST
    assert LONGEST * 0.98 < max(words) <= LONGEST
    # Even on a log scale: as many below the geometric middle of 5 and 200 as above it.
    assert 0.45 < np.mean(np.array(words) < 31.6) < 0.55


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_percentiles_are_numpys(share: float) -> None:
    values = [float(x) for x in np.random.default_rng(7).normal(size=37)]
    assert percentile(values, share) == pytest.approx(float(np.percentile(values, share * 100)))


def test_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5
    assert median([5.0]) == 5.0


def test_a_batch_counts_once_however_many_sentences_name_it() -> None:
    assert mean_batch([1] + [3] * 3 + [8] * 8) == pytest.approx(4.0)  # 12 sentences in 3 batches


def test_disturbed_rounds_are_left_out_where_a_clean_one_exists() -> None:
    quiet = {"foreign_cores": 0.0, "foreign_cores_limit": 0.1}
    loud = {"foreign_cores": 0.0, "foreign_cores_limit": 0.9}
    assert clean([loud, quiet]) == [quiet]
    assert clean([loud, loud]) == [loud, loud]


def test_the_meter_counts_this_process() -> None:

    assert os.getpid() in tree(os.getpid())
    meter = Meter(os.getpid())
    sum(i * i for i in range(3_000_000))
    assert meter.read().own_s > 0


def test_what_others_use_is_what_neither_this_process_nor_its_children_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "busy_s", lambda: machine.family_s() + 0.5 * perf_counter())
    foreign = Foreign()
    subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    assert foreign.cores() == pytest.approx(0.5, abs=0.05)


def test_data_lies_beside_the_page_that_tells_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.md"
    file.write_text("by hand\n<!-- made by `make x`: begin -->\n<!-- made by `make x`: end -->\n")
    data = page.stamp("make x") | {"figure": 1}
    page.publish(data, "the table", "make x", file)
    assert json.loads((tmp_path / "x.json").read_text()) == data
    told = file.read_text()
    assert told.startswith("by hand\n")
    assert f"Made {data['when']} by `{data['command']}`. Machine: " in told
    assert "the table" in told
    page.publish(data, "only said", "make x", None)
    assert file.read_text() == told
    assert "only said" in capsys.readouterr().out


def test_a_page_is_changed_between_its_marks_only(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- made by `make x`: begin -->\nold\n<!-- made by `make x`: end -->\nafter\n")
    page.put(file, "make x", page.table(["a", "b"], [["1", "2"]]))
    lines = file.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert [line for line in lines if line.startswith("|")] == ["| a | b |", "|---|---|", "| 1 | 2 |"]
    assert "old" not in lines
    with pytest.raises(ValueError, match="lacks the marks"):
        page.put(file, "make y", "")


def test_a_gpus_figures_have_their_own_file_and_place(tmp_path: Path, repository: Path) -> None:
    docs = repository / "docs"
    shutil.copy(docs / "benchmarks.md", tmp_path)
    data = json.loads((docs / "benchmarks" / "cpu.json").read_text())
    gpu = {"index": 0, "uuid": "GPU-1", "name": "NVIDIA Example", "memory_bytes": 80 * 2**30}
    report.write(data | {"device": "cuda:0", "gpu": gpu}, tmp_path)
    assert [file.name for file in (tmp_path / "benchmarks").iterdir()] == ["gpu.json"]
    before, after = ((folder / "benchmarks.md").read_text().partition("## On a GPU") for folder in (docs, tmp_path))
    assert after[0] == before[0]
    assert "On one NVIDIA Example, 80 GiB." in after[2]
    assert "Not measured" not in after[2]


def test_the_bare_forward_is_the_workers_own_and_has_all_cores(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_LOCK_DIR", str(tmp_path))
    worker = try_lock(tmp_path / "cpu.0.lock")  # as the service's worker holds it meanwhile
    assert worker is not None
    threads = torch.get_num_threads()
    model = forward.load(repository / "models.yaml", "bert", "cpu")
    os.close(worker)
    assert torch.get_num_threads() == threads
    assert forward.run(model, ["one", "two"], 2).vectors.shape == (2, 384)


@pytest.mark.parametrize(("streams", "took_s"), [(1, 3.0), (2, 1.5)])
def test_a_stream_that_has_nothing_left_is_no_part_of_the_limit(
    monkeypatch: pytest.MonkeyPatch, streams: int, took_s: float
) -> None:
    clocks: dict[int, float] = defaultdict(float)

    def a_second_later() -> float:
        clocks[threading.get_ident()] += 1
        return clocks[threading.get_ident()]

    monkeypatch.setattr(forward, "perf_counter", a_second_later)
    model: Any = SimpleNamespace(streams=streams)
    assert forward.each(model, "abc", str.upper) == (["A", "B", "C"], took_s)


@pytest.mark.parametrize(("max_cost", "max_size"), [(1, 64), (10, 64), (10, 2), (10**6, 64), (10**6, 3)])
def test_budgets_cut_batches_as_the_worker_does(max_cost: int, max_size: int) -> None:
    costs = [3, 4, 5, 1, 1, 12, 2, 9]
    batcher: Batcher[_Unit] = Batcher(lambda: 0.0)
    batcher.put(_Unit(place, cost, Budget(max_size, max_cost)) for place, cost in enumerate(costs))
    theirs = []
    while batch := batcher.take():
        theirs.append([unit.place for unit in batch])
    assert [list(places) for places in auto.batches(costs, max_cost, max_size)] == theirs


def test_the_pictures_are_the_same_for_a_seed() -> None:
    assert auto.pictures(3) == auto.pictures(4)[:3]
    assert len(set(auto.pictures(8))) == 8


def test_what_auto_found_stands_beside_the_best_by_hand() -> None:
    def rows(*rates: float) -> list[dict[str, float]]:
        return [{"rate": rate, "batch_ms": 10.0, "foreign_cores": 0.0} for rate in rates]

    found = {
        "rows": {"1": rows(10, 20, 30), "2": rows(40, 40, 40), "auto": rows(38, 39, 60)},
        "found": [{"max_cost": 2}] * 3,
    }
    assert (
        auto.swept("cnn", 8, found).splitlines()[-1] == "| **auto** (1 x 2, 1 x 2, 1 x 2) | 39.0 | 0.97 | 10 | 0.00 |"
    )
    versions = {
        "float32": {"runs": rows(5), "max_cost": 4, "warm_s": 2.0, "outputs": "-"},
        "compile: true": {"missing": "no C++ compiler"},
    }
    assert "| `compile: true` | - | - | - | no C++ compiler | - |" in auto.compared("cnn", 8, versions)


@dataclass(frozen=True)
class _Unit:
    place: int
    cost: int
    budget: Budget
    lane, priority, owner, weight = "", 0, "", 1


def test_neither_a_stack_that_fills_nor_one_that_runs_dry_is_counted() -> None:
    assert around("abcde", 2) == list("deabcdeab")
    assert around("ab", 3) == list("babababa")
    answers = Answers(at_s=[9, 5, 6, 7, 9.5, 8, 11, 15], latencies_s=[9, 5, 1, 2, 3, 3, 2, 7])
    assert full_load(answers, 2) == Stretch(4 / 3.75, [2, 3, 9, 3]), "from 5 to 9 there were four more, from 6 to 9.5"


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_how_many_answers_come_at_once_does_not_change_their_rate(at_once: int) -> None:
    """Two a second, four connections, eight requests and what is around them."""
    at_s = [(1 + number // at_once) * at_once / 2 for number in range(16)]
    found = full_load(Answers(at_s=at_s, latencies_s=[2.0] * 16), 4)
    assert found == Stretch(2, [2.0] * 8)
