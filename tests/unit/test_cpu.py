"""Threads by the container's share of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker import cpu


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("max 100000\n", None), ("150000 100000\n", 2), ("400000 100000\n", 4), ("10000 100000\n", 1), ("nonsense", None)],
)
def test_the_quota_of_a_container(tmp_path: Path, text: str, cpus: int | None) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert cpu.quota(file) == cpus
    assert cpu.quota(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("asked", "cores", "limit", "used"), [(0, 8, 2, 2), (0, 8, None, 8), (0, 1, 4, 1), (3, 8, 2, 3)]
)
def test_what_is_asked_for_goes_first(
    monkeypatch: pytest.MonkeyPatch, asked: int, cores: int, limit: int | None, used: int
) -> None:
    monkeypatch.setattr(cpu, "quota", lambda: limit)
    assert cpu.threads(asked, cores) == used
