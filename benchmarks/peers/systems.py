"""The peers, their variants, and how each is spoken to. Servers are in servers/, their packages in requirements/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

OURS = "ml-service"
Group = Literal["lone", "many", "bulk"]
Variants = Mapping[str, Mapping[str, int]]
GROUPS: Mapping[Group, str] = {"lone": "c1", "many": "c8, c32, c128, c1 right after", "bulk": "32 texts, c8"}


def _texts(texts: Sequence[str]) -> Any:
    return {"texts": list(texts)}


def _embeddings(answer: Any) -> list[Any]:
    return list(answer["embeddings"])


@dataclass(frozen=True, slots=True)
class System:
    """`programs`: command lines of its Python, started together; `variants`: settings for its server file; `best`: the
    variant of each group of levels that the sweep found the fastest."""

    name: str
    title: str
    programs: tuple[str, ...] = ()
    variants: Variants = field(default_factory=lambda: {"as it is": {}})
    best: Mapping[Group, str] = field(default_factory=lambda: dict.fromkeys(GROUPS, "as it is"))
    path: str = "/embed"
    environment: str = ""  # another's, where it needs nothing else
    redis: bool = False
    echoes: bool = True
    body: Callable[[Sequence[str]], Any] = _texts
    vectors: Callable[[Any], list[Any]] = _embeddings
    echo_body: Callable[[Sequence[str]], Any] = _texts


def _ours_body(texts: Sequence[str]) -> Any:
    data = {"text": texts[0]} if len(texts) == 1 else {"texts": list(texts)}
    return {"model_type": "bert", "data": data}


def _ours_vectors(answer: Any) -> list[Any]:
    output = answer["output"]
    return list(output.get("embeddings") or [output["embedding"]])


_LITSERVE: Variants = {
    "batching off": {"CHUNK": 4},
    "batches of 8, 2 ms, passes of 4": {"MAX_BATCH": 8, "WAIT_MS": 2, "CHUNK": 4},
    "batches of 32, 5 ms, passes of 4": {"MAX_BATCH": 32, "WAIT_MS": 5, "CHUNK": 4},
    "batches of 64, 5 ms, passes of 4": {"MAX_BATCH": 64, "WAIT_MS": 5, "CHUNK": 4},
    "batches of 32, 50 ms, passes of 32": {"MAX_BATCH": 32, "WAIT_MS": 50, "CHUNK": 32},
}
_LITSERVE_PACKED: Variants = {
    "batching off": {"CHUNK": 16},
    "batches of 8, 2 ms": {"MAX_BATCH": 8, "WAIT_MS": 2, "CHUNK": 16},
    "batches of 32, 5 ms": {"MAX_BATCH": 32, "WAIT_MS": 5, "CHUNK": 16},
}
# The cores cut in two, as our own streams do: which of the two ways is the faster depends on the machine's day.
_LITSERVE_TWO: Variants = {
    "batches of 16, 5 ms": {"WORKERS": 2, "THREADS": 1, "MAX_BATCH": 16, "WAIT_MS": 5, "CHUNK": 16},
}
_BENTOML: Variants = {
    "batching off": {"CHUNK": 4},
    "batches of up to 32, passes of 4": {"MAX_BATCH": 32, "CHUNK": 4},
    "batches of up to 64, passes of 8": {"MAX_BATCH": 64, "CHUNK": 8},
}
_RAY: Variants = {
    "batching off": {"CHUNK": 4},
    "batches of 32, at once, passes of 4": {"MAX_BATCH": 32, "WAIT_MS": 0, "CHUNK": 4},
    "batches of 64, 5 ms, passes of 4": {"MAX_BATCH": 64, "WAIT_MS": 5, "CHUNK": 4},
}
_INFINITY: Variants = {
    "passes of 32, its default": {"CHUNK": 32},
    "passes of 8": {"CHUNK": 8},
    "passes of 4": {"CHUNK": 4},
}
_CELERY: Variants = {
    "1 process, passes of 4": {"WORKERS": 1, "CHUNK": 4},
    "2 processes of 1 thread, passes of 4": {"WORKERS": 2, "THREADS": 1, "CHUNK": 4},
}
_NAIVE: Variants = {"passes of 4": {"CHUNK": 4}, "passes of 8": {"CHUNK": 8}, "one pass": {"CHUNK": 32}}


def _all(variant: str) -> dict[Group, str]:
    return dict.fromkeys(GROUPS, variant)


def _mixed(loaded: str) -> dict[Group, str]:
    """A lone request fares best where nothing waits for company."""
    return {"lone": "batching off", "many": loaded, "bulk": loaded}


SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        System(
            OURS,
            "ml-service",
            path="/inference",
            body=_ours_body,
            vectors=_ours_vectors,
            echo_body=lambda texts: {"model_type": "echo", "data": {"text": texts[0]}},
        ),
        System(
            "litserve_packed",
            "LitServe, packed forward",
            ("{servers}/litserve_packed_server.py",),
            _LITSERVE_PACKED,
            _mixed("batches of 8, 2 ms") | {"many": "batches of 32, 5 ms"},
            environment="litserve",
        ),
        System(
            "litserve_two",
            "LitServe, packed, 2 workers",
            ("{servers}/litserve_packed_server.py",),
            _LITSERVE_TWO,
            _all("batches of 16, 5 ms"),
            environment="litserve",
        ),
        System(
            "litserve",
            "LitServe",
            ("{servers}/litserve_server.py",),
            _LITSERVE,
            _mixed("batches of 64, 5 ms, passes of 4"),
        ),
        System(
            "bentoml",
            "BentoML",
            ("-m bentoml serve bentoml_server:Embedding --host 127.0.0.1 --port {PEER_PORT}",),
            _BENTOML,
            _mixed("batches of up to 32, passes of 4"),
            vectors=list,
        ),
        System(
            "ray",
            "Ray Serve",
            ("{servers}/ray_server.py",),
            _RAY,
            _all("batches of 32, at once, passes of 4") | {"many": "batches of 64, 5 ms, passes of 4"},
        ),
        System(
            "infinity",
            "infinity-emb",
            ("{servers}/infinity_server.py",),
            _INFINITY,
            _all("passes of 4"),
            path="/embeddings",
            echoes=False,
            body=lambda texts: {"model": "bert", "input": list(texts)},
            vectors=lambda answer: [row["embedding"] for row in answer["data"]],
        ),
        System(
            "celery",
            "Celery and FastAPI",
            (
                "-m celery -A celery_server worker --pool prefork --loglevel warning",
                "{servers}/celery_server.py",
            ),
            _CELERY,
            _all("2 processes of 1 thread, passes of 4") | {"lone": "1 process, passes of 4"},
            redis=True,
        ),
        System("naive", "FastAPI, inline", ("{servers}/naive_server.py",), _NAIVE, _all("passes of 4")),
    )
}
