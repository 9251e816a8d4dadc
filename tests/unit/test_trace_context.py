"""W3C trace context: what is handed on, and what is dropped. https://www.w3.org/TR/trace-context/"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared import trace_context
from shared.trace_context import TraceContext

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def hexadecimal(digits: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=digits, max_size=digits)


ids = st.tuples(hexadecimal(32), hexadecimal(16)).filter(lambda both: all(one.strip("0") for one in both))
keys = st.from_regex(r"[a-z][_0-9a-z*/-]{0,20}|[a-z0-9][_0-9a-z*/-]{0,20}@[a-z][_0-9a-z*/-]{0,13}", fullmatch=True)
values = st.from_regex(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,8}[\x21-\x2b\x2d-\x3c\x3e-\x7e]", fullmatch=True)
members = st.lists(st.tuples(keys, values), max_size=15, unique_by=lambda pair: pair[0]).map(
    lambda pairs: [f"{key}={value}" for key, value in pairs]
)
blanks = st.text(" \t", max_size=3)


@given(ids, hexadecimal(2), blanks)
def test_what_follows_the_grammar_is_handed_on(both: tuple[str, str], flags: str, blank: str) -> None:
    text = f"00-{both[0]}-{both[1]}-{flags}"
    context = trace_context.parse(f"{blank}{text}{blank}")
    assert context == TraceContext(text)
    assert context.headers() == {"traceparent": text}
    assert context.trace_id == both[0]


@given(ids, hexadecimal(2))
def test_opentelemetry_reads_the_same_ids(both: tuple[str, str], flags: str) -> None:
    context = trace_context.parse(f"00-{both[0]}-{both[1]}-{flags}", "a=1")
    assert context
    seen = get_current_span(TraceContextTextMapPropagator().extract(context.headers())).get_span_context()
    assert (f"{seen.trace_id:032x}", f"{seen.span_id:016x}", seen.trace_state.to_header()) == (*both, "a=1")
    assert int(seen.trace_flags) == int(flags, 16)


@given(members, blanks)
def test_a_state_is_kept_as_it_is(members: list[str], blank: str) -> None:
    context = trace_context.parse(PARENT, f"{blank},{blank}".join(members))
    assert context
    whole = ",".join(members)
    assert context.state == (whole if len(whole) <= 512 else "")


@given(st.one_of(st.text(), st.from_regex(trace_context._PARENT), st.none(), st.binary(), st.integers()), st.text())
def test_whatever_comes_out_may_be_sent_on(parent: Any, state: str) -> None:
    """Headers of one line, in ASCII, that read as themselves."""
    context = trace_context.parse(parent, state)
    if context is not None:
        assert trace_context.of(context.headers()) == context
        for value in context.headers().values():
            assert value.isascii()
            assert value.isprintable()
            assert len(value) <= 512


@pytest.mark.parametrize(
    "parent",
    [
        "",
        PARENT.upper(),
        PARENT[:-1],
        PARENT + "-",
        PARENT + "-more",
        PARENT + "\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"cc-{TRACE}-{SPAN}-01more",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 512}",
        f"cc-{TRACE}-{SPAN}-01-\r\nX-Evil: 1",
        PARENT.encode(),
        7,
        None,
    ],
)
def test_what_does_not_is_no_context(parent: Any) -> None:
    assert trace_context.parse(parent, "a=1") is None


def test_a_later_version_may_have_more() -> None:
    assert trace_context.parse(f"cc-{TRACE}-{SPAN}-01-more.to come") == TraceContext(
        f"cc-{TRACE}-{SPAN}-01-more.to come"
    )


@pytest.mark.parametrize(
    "state",
    [
        "a",
        "A=1",
        "a=1,a=2",
        "a=\t1",
        "a=1=2",
        "a=",
        "a= ",
        f"a={'x' * 257}",
        ",".join(f"k{n}=1" for n in range(33)),
        7,
        None,
    ],
)
def test_a_wrong_state_goes_alone(state: Any) -> None:
    assert trace_context.parse(PARENT, state) == TraceContext(PARENT)
