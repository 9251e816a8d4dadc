"""Threads by this process's share of the machine."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from worker import cpu
from worker.cpu import CpuShare, spin_briefly


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("max 100000\n", None), ("150000 100000\n", 2), ("400000 100000\n", 4), ("10000 100000\n", 1), ("nonsense", None)],
)
def test_the_quota_of_a_container(tmp_path: Path, text: str, cpus: int | None) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert cpu.quota(file) == cpus
    assert cpu.quota(tmp_path / "none") is None


@pytest.mark.parametrize(("asked", "limit", "used"), [(0, 2, 2), (0, None, 8), (0, 12, 8), (3, 2, 3)])
def test_what_is_asked_for_goes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: int, limit: int | None, used: int
) -> None:
    monkeypatch.setattr(cpu, "quota", lambda: limit)
    assert CpuShare(asked, tmp_path).threads(8) == used


def test_workers_of_one_host_divide_its_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "quota", lambda: None)
    now, before = 0.0, torch.get_num_threads()
    shares = [CpuShare(0, tmp_path, counts=True, clock=lambda: now) for _ in range(3)]
    try:
        for count, share in enumerate(shares, 1):
            share.apply()
            assert [one.threads(8) for one in shares[:count]] == [8 // count] * count
        assert CpuShare(0, tmp_path).threads(8) == 2, "one that is not counted counts itself"
        assert [share.threads(2) for share in shares] == [1, 1, 1], "never less than one"
        assert shares[0]._slot is not None
        os.close(shares[0]._slot)  # as the kernel does
        assert shares[1].threads(8) == 4
        now = 2.0
        torch.set_num_threads(7)
        assert shares[1].apply() == torch.get_num_threads() == max(1, before // 2)
        assert shares[1].now() == max(1, before // 2)
        os.close(shares[2]._slot or 0)
        assert shares[1].threads(8) == 8
        shares[2]._slot = None
        assert shares[1].apply() == max(1, before // 2), "it does not look before each forward"
        now = 4.0
        assert shares[1].apply() == shares[1].now() == before
        assert shares[1].apply(2) == torch.get_num_threads() == max(1, before // 2), "one of two parts"
        assert shares[1].apply(64) == torch.get_num_threads() == 1, "never less than one"
    finally:
        torch.set_num_threads(before)
        for share in shares[1:]:
            if share._slot is not None:
                os.close(share._slot)


def test_each_thread_has_its_own_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What streams rest on: OpenMP's number is a thread's own."""
    monkeypatch.setattr(cpu, "quota", lambda: None)
    share, before = CpuShare(6, tmp_path), torch.get_num_threads()
    try:
        share.apply()
        with ThreadPoolExecutor(1) as other:
            assert other.submit(lambda: (share.apply(3), torch.get_num_threads())).result() == (2, 2)
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("asked", "counts", "most"), [(3, True, 3), (3, False, 1), (0, False, 1)])
def test_batches_at_a_time_are_bounded(tmp_path: Path, asked: int, counts: bool, most: int) -> None:
    share = CpuShare(asked, tmp_path, counts=counts)
    assert share.cores == most
    assert share.now() == 1, "nobody has looked yet"
    before = torch.get_num_threads()
    try:
        share.apply()
        assert share.now() == most
    finally:
        torch.set_num_threads(before)
        if share._slot is not None:
            os.close(share._slot)


def test_where_the_folder_cannot_be_written_nobody_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    share = CpuShare(0, tmp_path / "file" / "below", counts=True)
    share.apply()
    assert share.threads(8) == (cpu.quota() or 8)


def test_threads_spin_briefly_unless_the_user_says_how_long() -> None:
    for told, expected in (
        ({}, {"GOMP_SPINCOUNT": "30000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "passive"}),
    ):
        environ = dict(told)
        spin_briefly(environ)
        assert environ == expected
