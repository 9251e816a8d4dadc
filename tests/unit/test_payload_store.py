"""Each payload store keeps what it was given, tells when it is away, and knows no name but its own."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from shared.errors import ConfigError, PayloadsUnavailable
from shared.payload_folder import Folder
from shared.payload_place import PayloadRef
from shared.payload_place import Place as Parsed
from shared.payload_store import JSON_TYPE, PayloadGone, Payloads, open_payloads
from shared.settings import Settings
from tests.payload_places import BUCKET, S3, Place, make_place


@pytest.fixture
def payloads(place: Place) -> Payloads:
    return open_payloads(Settings(**place.settings), place.store)


def test_what_is_put_is_there_until_it_is_deleted(place: Place, payloads: Payloads) -> None:
    assert place.objects() == [], "the look at the start leaves nothing"
    ref, other = PayloadRef.new(place.kind, 3), PayloadRef.new(place.kind)
    for number, data in enumerate((b"one", b"", bytes(range(256)) * 5000)):
        payloads.put(ref, number, data)
    payloads.put(other, 0, b"{}", JSON_TYPE)
    assert [payloads.size(ref, number) for number in range(3)] == [3, 0, 1_280_000]
    assert payloads.get(ref) == b"one" + bytes(range(256)) * 5000
    assert list(payloads.chunks(other)) == [b"{}"]
    assert place.objects() == sorted([*ref.objects, *other.objects])
    payloads.delete([ref])
    payloads.delete([ref])
    assert place.objects() == other.objects
    assert payloads.get(other) == b"{}"
    assert payloads.size(ref, 0) is None
    with pytest.raises(PayloadGone):
        payloads.get(ref)
    payloads.delete([other])
    assert place.objects() == []


def test_again_is_harmless(place: Place, payloads: Payloads) -> None:
    ref = PayloadRef.new(place.kind)
    for _ in range(2):
        payloads.put(ref, 0, b"x" * 100_000)
    assert payloads.get(ref) == b"x" * 100_000
    assert place.objects() == ref.objects


def test_many_at_once(place: Place, payloads: Payloads) -> None:
    """Some are written while others, beside them, are deleted."""
    stems = [f"ab{number:030x}" for number in range(40)]  # of one folder
    kept = [PayloadRef(place.kind, stem) for stem in stems]

    def come_and_go(ref: PayloadRef) -> None:
        payloads.put(ref, 0, str(ref).encode())
        passing = PayloadRef(place.kind, ref.stem.replace("ab", "ac", 1))
        payloads.put(passing, 0, b"x")
        payloads.delete([passing])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, kept))
    assert [payloads.get(ref) for ref in kept] == [str(ref).encode() for ref in kept]
    assert place.objects() == sorted(ref.object(0) for ref in kept)


@pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)
def test_away_and_back(place: Place, payloads: Payloads) -> None:
    ref = PayloadRef.new(place.kind)
    payloads.put(ref, 0, b"kept")
    with place.away():
        for ask in (
            lambda: payloads.put(PayloadRef.new(place.kind), 0, b"x"),
            lambda: payloads.get(ref),
            lambda: payloads.size(ref, 0),
            lambda: payloads.delete([ref]),
        ):
            with pytest.raises(PayloadsUnavailable):
                ask()
    assert payloads.get(ref) == b"kept"


def test_a_process_starts_while_its_bucket_is_away(store: redis.Redis, tmp_path: Path, s3: S3) -> None:
    place = make_place("s3", store, tmp_path, s3)
    with place.away():
        payloads = open_payloads(Settings(**place.settings), store)
    payloads.put(ref := PayloadRef.new("s"), 0, b"x")
    assert payloads.get(ref) == b"x"


def test_a_signed_url_is_whoever_has_its(place: Place, payloads: Payloads) -> None:
    ref = PayloadRef.new(place.kind)
    payloads.put(ref, 0, b"[1]", JSON_TYPE)
    url = payloads.signed_url(ref, 60)
    if place.kind != "s":
        assert url is None
        return
    assert url is not None
    answer = httpx.get(url, trust_env=False)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"[1]", JSON_TYPE)
    assert "X-Amz-Expires=60" in url
    assert payloads.signed_url(ref, 0) is None, "switched off"
    assert payloads.signed_url(PayloadRef.new("s", 2), 60) is None, "one URL is one object"


def test_another_stores_references(store: redis.Redis, tmp_path: Path) -> None:
    """What lies in Redis is read whatever the settings say; another kind is told, not looked for."""
    own = Payloads(Settings(payload_store="redis"), store)
    folder = Payloads(Settings(payload_store=tmp_path.as_uri()), store)
    own.put(ref := PayloadRef.new("r"), 0, b"x")
    assert folder.get(ref) == b"x"
    assert (folder.has(PayloadRef.new("f")), own.has(PayloadRef.new("f"))) == (True, False)
    with pytest.raises(PayloadsUnavailable, match=r"a folder.*ML_PAYLOAD_STORE must be the same everywhere"):
        own.get(PayloadRef.new("f"))


def test_a_dead_writers_part_goes_with_the_object(tmp_path: Path) -> None:
    folder, ref = Folder(str(tmp_path)), PayloadRef.new("f")
    (tmp_path / ref.stem[:2]).mkdir()
    (tmp_path / ref.stem[:2] / f"{ref.object(0)}.part").write_bytes(b"half")
    assert folder.get(ref.object(0)) is None
    folder.delete(ref.objects)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis", Parsed("r")),
        ("file:///srv/payloads", Parsed("f", "/srv/payloads")),
        ("file:///srv/with%20blank/", Parsed("f", "/srv/with blank/")),
        ("s3://bucket", Parsed("s", "bucket")),
        ("s3://my-bucket.x/a/b/", Parsed("s", "my-bucket.x", "a/b")),
    ],
)
def test_places(text: str, expected: Parsed) -> None:
    assert Parsed.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "Redis", "redis://x", "file://", "file:///", "file://host/x", "file:///x#y", "/srv", "s3://", "s3://B"),
        *("s3://b/../c?x", "s3://b/a b", "s3://user:pw@bucket", "s3://bucket/a//b", "gs://b"),
    ],
)
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ConfigError, match="ML_PAYLOAD_STORE"):
        Settings(payload_store=text)


def test_what_cannot_work_is_found_at_the_start(
    store: redis.Redis, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**settings: Any) -> str:
        with pytest.raises(ConfigError) as error:
            open_payloads(Settings(**settings), store)
        return error.value.message

    assert "is no folder" in refused(payload_store=(tmp_path / "none").as_uri())
    (tmp_path / "file").write_bytes(b"")
    assert "is no folder" in refused(payload_store=(tmp_path / "file").as_uri())
    assert "no such bucket" in refused(payload_store="s3://another-bucket", s3_endpoint=s3.endpoint)
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert "ml-service[s3]" in refused(payload_store=f"s3://{BUCKET}", s3_endpoint=s3.endpoint)


def test_references() -> None:
    ref = PayloadRef.new("s", 12)
    assert PayloadRef.parse(str(ref)) == ref
    assert ref.objects == [f"s{ref.stem}.{number}" for number in range(12)]
    assert PayloadRef.new("s").stem != ref.stem


@given(st.text() | st.from_regex(r"[rfsx]?[0-9a-fA-F/.\\]{30,34}\.[0-9]{0,5}"))
@example("f" + "a" * 32 + ".1\n")
@example("f../../../../../../etc/passwd.1")
@example("f" + "a" * 32 + ".0")
@example("f" + "a" * 32 + ".1/../x")
@example("f" + "٣" * 32 + ".1")
def test_no_text_leads_elsewhere(text: str) -> None:
    """What passes has names without a separator, of one length; and comes out as it went in."""
    try:
        ref = PayloadRef.parse(text)
    except ValueError:
        return
    assert str(ref) == text
    assert all(
        name.isascii() and name.isalnum() and len(name) == 33
        for name, _, _ in (n.partition(".") for n in ref.objects[:1])
    )
