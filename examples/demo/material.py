"""What the demo asks: photographs and texts that ship inside scikit-image and scikit-learn, and sentences in pairs."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Photograph:
    """A real photograph, and words of which the first label must have one."""

    name: str
    path: Path
    right: tuple[str, ...]

    def base64(self) -> str:
        """As it travels in JSON."""
        return base64.b64encode(self.path.read_bytes()).decode()


def photographs() -> list[Photograph]:
    """In the order they are shown."""
    skimage = Path(str(files("skimage.data")))
    sklearn = Path(str(files("sklearn.datasets"))) / "images"
    return [
        Photograph("Chelsea", skimage / "chelsea.png", ("cat",)),
        Photograph("coffee", skimage / "coffee.png", ("espresso",)),
        Photograph("flower", sklearn / "flower.jpg", ("daisy",)),
        Photograph("Summer Palace", sklearn / "china.jpg", ("palace",)),
        Photograph("cameraman", skimage / "camera.png", ("tripod",)),
        Photograph("motorcycle", skimage / "motorcycle_left.png", ("moped", "motor scooter")),
    ]


# Two and two say the same in other words: each must lie nearest to its partner.
SENTENCES = [
    "A cat is asleep on the windowsill.",
    "The kitten naps beside the sunny window.",
    "The central bank raised interest rates again.",
    "Borrowing money has become more expensive.",
    "He brews an espresso before work.",
    "Her morning starts with a strong cup of coffee.",
    "The rocket lifted off shortly after dawn.",
    "A spacecraft was launched early this morning.",
]


def partner(index: int) -> int:
    """The other sentence of the pair."""
    return index ^ 1


def many_texts(count: int) -> list[str]:
    """Sentences of all lengths, from the descriptions of scikit-learn's data sets."""
    found: list[str] = []
    for page in sorted(Path(str(files("sklearn.datasets"))).glob("descr/*.rst")):
        prose = re.sub(r"\s+", " ", page.read_text(encoding="utf-8"))
        found += re.findall(r"(?<=[.!?] )[A-Z][A-Za-z0-9 ,;'()-]{15,400}[.!?](?= )", prose)
    texts = sorted(set(found))
    if len(texts) < count:
        raise LookupError(f"only {len(texts)} sentences in scikit-learn's descriptions, {count} wanted")
    step = len(texts) / count
    return [texts[int(i * step)] for i in range(count)]
