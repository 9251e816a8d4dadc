"""The pure parts of benchmarks.limits: pictures and arrivals are the same for a seed, and tables tell what grows."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from benchmarks import growth_page, limits
from benchmarks.arrivals import poisson
from benchmarks.photographs import CAMERAS, photographs
from benchmarks.scrape import summed


def test_photographs_are_the_same_for_a_seed_and_as_large_as_a_phones() -> None:
    made = photographs(len(CAMERAS))
    assert photographs(2) == made[:2]
    assert photographs(1, seed=1) != made[:1]
    for file, camera in zip(made, CAMERAS, strict=True):
        assert 60_000 < len(file) < 400_000
        assert Image.open(io.BytesIO(file)).size == (camera.width, camera.height)


def test_arrivals_are_random_and_at_the_rate_that_was_asked_for() -> None:
    moments = poisson(4000, 50.0, seed=1)
    assert moments == poisson(4000, 50.0, seed=1) != poisson(4000, 50.0, seed=2)
    gaps = [after - before for before, after in zip([0.0, *moments], moments, strict=False)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.05)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1), "of an exponential distribution it is the mean"


def test_samples_are_summed_over_their_labels() -> None:
    text = '# TYPE a counter\na_total{x="1"} 2\na_total{x="2"} 3\n# TYPE b gauge\nb 1\n'
    assert summed(text) == {"a_total": 5.0, "b": 1.0}


def test_what_is_flat_and_what_grows() -> None:
    assert growth_page.spread([100, 120, 110]) == "flat"
    assert growth_page.spread([100, 120, 400]) == "x 4.00"
    same, costs = ("requests_per_s", "p50_ms", "p95_ms"), ("api_us", "worker_us", "redis_us", "redis_commands")
    steps = ((1, 100.0), (64, 300.0))
    rows = [{"models": count} | dict.fromkeys(same, 1.0) | dict.fromkeys(costs, cost) for count, cost in steps]
    lines = growth_page.models({"rows": rows, "rounds": [rows]}).splitlines()
    assert lines[0] == "| models | 1 | 64 |  |"
    assert lines[2].endswith("| flat |")
    assert lines[-3] == "| Redis commands | 100 | 300 | x 3.00 |"


def test_parts_are_chosen_by_name_or_group() -> None:
    assert limits.chosen("") == list(limits.PARTS)
    assert limits.chosen("growth,images") == ["images", "queued", "clients", "models"]
    with pytest.raises(ValueError, match="no such part: tails"):
        limits.chosen("tails")
