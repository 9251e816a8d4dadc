"""The service's Prometheus text, as far as `top` reads it: gauges and counters, one a line."""

from __future__ import annotations

import re

import httpx

from ml_service_client.core.answers import error_of

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Metrics:
    """Samples by name and labels."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for line in text.splitlines():
            found = None if line.startswith("#") else _SAMPLE.fullmatch(line)
            if found is not None:
                labels = {name: re.sub(r"\\(.)", r"\1", value) for name, value in _LABEL.findall(found[2] or "")}
                self._samples.setdefault(found[1], []).append((labels, float(found[3])))

    def labels(self, name: str) -> list[dict[str, str]]:
        """Of each sample."""
        return [labels for labels, _ in self._samples.get(name, ())]

    def value(self, name: str, **labels: str) -> float | None:
        """Of the sample with just these labels."""
        return next((value for known, value in self._samples.get(name, ()) if known == labels), None)


def read(answer: httpx.Response) -> Metrics:
    """Raises MLServiceError."""
    if not answer.is_success:
        raise error_of(answer)
    return Metrics(answer.text)
