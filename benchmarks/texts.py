"""Mixed-length English texts, the same for a seed: cut from prose that ships with Python and scikit-learn."""

from __future__ import annotations

import hashlib
import importlib.resources
import math
import random

SEED = 20261123
SHORTEST, LONGEST = 5, 200  # words


def texts(count: int, seed: int = SEED) -> list[str]:
    """`count` texts of 5 to 200 words, their lengths even on a log scale, each from a random place of the prose. The
    first n are the same whatever `count` is."""
    sources = _prose()
    weights = [len(words) for words in sources]
    choose = random.Random(seed)
    made = []
    for _ in range(count):
        words = choose.choices(sources, weights)[0]
        size = round(math.exp(choose.uniform(math.log(SHORTEST), math.log(LONGEST))))
        start = choose.randrange(len(words) - size + 1)
        made.append(" ".join(words[start : start + size]))
    return made


def fingerprint(made: list[str]) -> str:
    """Of the texts: another Python or scikit-learn brings other prose."""
    return hashlib.sha256("\n".join(made).encode()).hexdigest()[:16]


def _prose() -> list[list[str]]:
    """The words of each page that is long enough for any text."""
    from pydoc_data.topics import topics

    folder = importlib.resources.files("sklearn.datasets.descr")
    pages = [text for _, text in sorted(topics.items())]
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".rst")), key=lambda file: file.name)
    pages += [file.read_text(encoding="utf-8") for file in files]
    return [words for page in pages if len(words := page.split()) > LONGEST]
