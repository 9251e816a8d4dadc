"""What a process tells Prometheus, summed over its labels."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def totals(url: str) -> dict[str, float]:
    """Of every sample's name at `url` the sum over all its labels."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own
        return summed(answer.read().decode())


def summed(text: str) -> dict[str, float]:
    """The same, of the text."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found
