"""Headers, rates, addresses and URLs: short texts from outside."""

from __future__ import annotations

import re

from hypothesis import assume
from hypothesis import strategies as st
from starlette.datastructures import Headers

from api.auth import _secret
from api.prefer import parse_prefer
from shared import api_keys, redis_url, trace_context
from shared.addresses import Rules, Target, check_url
from shared.errors import AddressRefused, ConfigError
from shared.origin import Carried, as_request_id
from shared.rates import Rate, Rates, parse_rate
from tests.fuzz.bounds import fuzzed
from tests.fuzz.hostile import damaged, odd_values

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def texts(*valid: str) -> st.SearchStrategy[str]:
    """These with damage, as a header brings them (latin-1), and any text."""
    encoded = [text.encode() for text in valid]
    return damaged(encoded).map(lambda data: data.decode("latin-1")) | st.text(max_size=60)


@fuzzed(st.lists(texts("respond-async, wait=10", 'wait="5";a=b, c="d\\"e"', "wait", ",,, wait = 1 ; x"), max_size=3))
def test_prefer(headers: list[str]) -> None:
    found = parse_prefer(headers)
    assert found.wait_s is None or found.wait_s >= 0


@fuzzed(texts(TRACE, f"cc{TRACE[2:]}-more"), texts("a=1,b@c=2", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"))
def test_trace_context(parent: str, state: str) -> None:
    found = trace_context.parse(parent, state)
    if found is not None:
        assert trace_context.parse(found.parent, found.state) == found, "what is sent on is read the same"
        assert "".join(found.headers().values()).isprintable()


CARRIED = st.sampled_from(["ml_request_id", "traceparent", "tracestate"])


@fuzzed(st.dictionaries(CARRIED, odd_values | texts(TRACE, "a")))
def test_what_a_message_carries(headers: dict[str, object]) -> None:
    found = Carried.of(headers)
    assert Carried.of(found.headers()) == found


@fuzzed(texts("3f2b1c", "a" * 128))
def test_request_id(text: str) -> None:
    assert re.fullmatch(r"[!-~]{0,128}", as_request_id(text))


@fuzzed(texts("Bearer mls_abc", "bearer  x", "Basic YTpi"), texts("mls_abc"))
def test_the_secret_of_a_request(authorization: str, key: str) -> None:
    pairs = [(b"authorization", authorization), (b"x-api-key", key)]
    secret = _secret(Headers(raw=[(name, value.encode("latin-1", "replace")) for name, value in pairs]))
    assert secret is None or re.fullmatch(r"[0-9a-f]{64}", api_keys.digest(secret))


RATES = ("100/minute", "50MB/hour", "1GiB / day", "7/second", "1KiB/day", "3Ki/second", "1 B/day\n", "9T/day")


@fuzzed(texts(*RATES), examples=60)
def test_rates(text: str) -> None:
    try:
        found = parse_rate(text)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert refused.startswith("must be a number from 1 on a period")
        return
    assert 1 <= found.amount <= 2**53, "a script in Redis counts with doubles"
    assert Rates.model_validate_json(Rates(requests=text).model_dump_json()).requests == text
    assert isinstance(found, Rate)


REDIS = (
    "redis://user:pa%2Fss@host:6379/1",
    "rediss://h:1/2?ssl_cert_reqs=none&ssl_check_hostname=false",
    "rediss://h/?ssl_ca_certs=/etc/hostname",
    "redis+socket:///run/redis.sock?virtual_host=3",
    "sentinel://:secret@a:1/0;sentinel://:secret@b:2/0?master_name=m&sentinel_password=secret",
    "redis://[::1]:6379/0",
    f"redis://h/{'1' * 5000}",
    f"rediss://h/?ssl_ca_certs=/{'a' * 5000}",
)


@fuzzed(texts(*REDIS), examples=60)
def test_redis_url(url: str) -> None:
    try:
        found = redis_url.parse(url)
    except ConfigError:
        return
    assert found.db >= 0
    if not found.master:
        again = redis_url.parse(found.stock_url())
        assert (again.hosts, again.path, again.db, again.login) == (found.hosts, found.path, found.db, found.login)


URLS = (
    "https://example.com/hook?a=b",
    "http://example.com:8080/",
    "http://93.184.216.34/",
    "http://[2606:2800:220:1::1]:80/a",
    "http://[::ffff:127.0.0.1]/",
    "http://127.0.0.1/",
    "http://user:pw@example.com/",
    "HTTPS://EXAMPLE.com.:443",
)


@fuzzed(texts(*URLS), texts("10.0.0.0/8,example.com", "::/0", ""), st.booleans(), examples=60)
def test_outbound_url(url: str, allow: str, https_only: bool) -> None:
    try:
        rules = Rules.parse(allow, https_only=https_only)
    except ConfigError:
        assume(False)
    try:
        found = check_url(url, rules)
    except AddressRefused:
        return
    assert isinstance(found, Target)
    assert found.scheme == "https" or not https_only
    assert not re.search(r"[\s@\\]", found.authority)
    if found.literal is not None and not rules.networks and not rules.names:
        assert found.literal.is_global
