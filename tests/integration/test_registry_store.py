"""The registry in Redis: how models files are taken in, and what happens to it when Redis forgets."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from shared import keys
from shared.catalog import Catalog, load_catalog
from shared.errors import ConfigError, RegistryChanged
from shared.registry import Registry
from shared.registry_store import RegistryStore
from worker.registry import RegistryReader


def file(folder: Path, **sources: str) -> Catalog:
    """A models file: model to the source of its only version."""
    path = folder / "models.yaml"
    lines = [f"  {name}: {{task: echo, versions: {{'1': {{source: {source}}}}}}}\n" for name, source in sources.items()]
    path.write_text("models:\n" + "".join(lines))
    return load_catalog(path)


def sources(registry: Registry) -> dict[str, str]:
    return {name: spec.versions["1"].source for name, spec in registry.catalog().models.items()}


def living(store: redis.Redis) -> None:
    """A worker."""
    store.set(f"{keys.WORKER}p", orjson.dumps({"state": "ready"}), ex=60)
    store.zadd(keys.WORKERS, {"p": 1})
    store.expire(keys.WORKERS, 60)


def test_files_of_different_processes_come_together(store: redis.Redis, tmp_path: Path) -> None:
    first, second = RegistryStore(store, file(tmp_path, a="x")), RegistryStore(store, file(tmp_path, b="y"))
    assert sources(first.seed()) == {"a": "x"}
    assert sources(second.seed()) == {"a": "x", "b": "y"}
    assert sources(first.read()) == {"a": "x", "b": "y"}


def test_an_edit_can_be_taken_back_while_no_worker_lives(store: redis.Redis, tmp_path: Path) -> None:
    good, bad = (RegistryStore(store, file(tmp_path, a=source)) for source in ("good", "bad"))
    for one, source in ((good, "good"), (bad, "bad"), (good, "good")):
        assert sources(one.seed()) == {"a": source}
    generation = good.read().generation
    assert good.seed().generation == generation, "what stands is not written again"
    living(store)
    assert sources(bad.seed()) == {"a": "good"}, "now somebody runs it"


def test_one_file_alone(store: redis.Redis, tmp_path: Path) -> None:
    """As `ml-service up` takes it in."""
    RegistryStore(store, file(tmp_path, a="x", b="y")).seed(exact=True)
    changed = RegistryStore(store, file(tmp_path, b="y", c="z"))
    assert sources(changed.seed(exact=True)) == {"b": "y", "c": "z"}
    changed.change(lambda now: now.without("c"))
    assert sources(changed.seed(exact=True)) == {"b": "y"}, "what was changed since stays, as long as the file does"
    living(store)
    with_workers = RegistryStore(store, file(tmp_path, b="other"))
    assert sources(with_workers.seed(exact=True, outright=True)) == {"b": "other"}


def test_what_redis_has_lost_is_put_back(store: redis.Redis, tmp_path: Path) -> None:
    one = RegistryStore(store, file(tmp_path, a="x"))
    known = one.seed()
    known = one.change(lambda now: now.without("a").with_models({"b": known.models["a"].spec}, outright=True))
    store.flushall()
    found = one.read(known)
    assert (sources(found), found.etag != known.etag) == ({"b": "x"}, True)
    store.flushall()
    assert sources(one.read()) == {"a": "x"}, "who knew nothing takes the file in"


def test_of_writers_at_once_none_is_lost(store: redis.Redis, tmp_path: Path) -> None:
    one = RegistryStore(store, file(tmp_path, a="x"))
    spec = one.seed().models["a"].spec

    def add(number: int) -> None:
        one.change(lambda now: now.with_models({f"m{number}": spec}, outright=True))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(one.read().models) == 21
    with pytest.raises(RegistryChanged, match="the models have changed: they are at 21-"):
        one.change(lambda now: now.without("a"), seen="1-x")
    same: Any = one.change(lambda now: now)
    assert same.generation == 21


@pytest.mark.parametrize("document", [b"", b"{", b'{"models": {"a": {"spec": {"task": "of a newer release"}}}}'])
def test_a_document_that_cannot_be_read_is_told_and_changes_nothing_here(
    store: redis.Redis, tmp_path: Path, document: bytes
) -> None:
    reader = RegistryReader(RegistryStore(store, file(tmp_path, a="x")))
    store.hset(keys.REGISTRY, mapping={"document": document, "etag": "9-newer"})
    assert reader.saw("9-newer")
    assert not reader.refresh()
    assert sources(reader.registry) == {"a": "x"}
    with pytest.raises(ConfigError, match="ml:registry in Redis holds what this release cannot read"):
        RegistryReader(RegistryStore(store, file(tmp_path, a="x")))
