"""Errors in the words of whoever asks: a face speaks its clients' dialect, ours is RFC 9457.

Each function takes our problem document and gives the status and the body that this client's library reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Document = dict[str, Any]

_CODES = {
    "unauthorized": "invalid_api_key",
    "rate_limited": "rate_limit_exceeded",
    "invalid_input": "invalid_value",
    "bad_request": "invalid_request",
}
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_INDEX = re.compile(r"/(\d+)(?=/|$)")


def openai(document: Document) -> tuple[int, Document]:
    """`{"error": {message, type, param, code}}`, https://platform.openai.com/docs/guides/error-codes. What is wrong
    with an input is 400 there; `param` is its place, as in `messages[0].content`."""
    status, code = document["status"], document["code"]
    if status == 422:
        status = 400
    fault = next(iter(document.get("errors") or ()), None)
    kind = _KINDS.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    message = document["detail"]
    if fault and fault["message"] not in message:
        message = f"{message}: {fault['message']}"
    told = {
        "message": message,
        "type": kind,
        "param": _place(fault["pointer"]) if fault else None,
        "code": _CODES.get(code, code),
    }
    return status, {"error": told}


def _place(pointer: str) -> str | None:
    """/messages/0/content -> messages[0].content"""
    return _INDEX.sub(r"[\1]", pointer).lstrip("/").replace("/", ".") or None


def oip(document: Document) -> tuple[int, Document]:
    """`{"error": text}` of the Open Inference Protocol; tritonclient shows it as it is."""
    faults = "; ".join(f"{fault['pointer']}: {fault['message']}" for fault in document.get("errors") or ())
    text = document["detail"]
    return 400 if document["status"] == 422 else document["status"], {"error": f"{text}: {faults}" if faults else text}


def _dialect(path: str) -> Callable[[Document], tuple[int, Document]] | None:
    if path in ("/v1/embeddings", "/v1/chat/completions"):
        return openai
    return oip if path == "/v2" or path.startswith("/v2/") else None


def translate(path: str, document: Document) -> tuple[int, Document] | None:
    """None: this path's callers read problem documents."""
    dialect = _dialect(path)
    return dialect(document) if dialect else None
