"""An answer of a chat while it is written, as Server-Sent Events."""

from __future__ import annotations

import math

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from api.answers import job_headers
from api.ask import Answer, failure
from api.chat import Chatter, Reply, no_chat
from api.chat_answers import Words
from api.deps import Services
from api.errors import CallerGone, problem
from api.events import HEADERS, KEEP_ALIVE, KEEP_ALIVE_S, write
from api.said import Speech, listening
from shared.errors import ServiceError


def read(request: Request, words: Words, asks: Chatter, answer: Answer) -> Reply | Response:
    """What the model answers, or the error of a job that failed, or was none of a chat."""
    failed = failure(request, answer, asks.place)
    if failed is not None:
        return failed
    return asks.read(answer.output) or _problem(request, no_chat(words.asked.model), words)


def _problem(request: Request, error: ServiceError, words: Words) -> Response:
    return problem(request, error.code, error.message, faults=error.faults, job_id=words.ticket.job_id)


class ChatStream(Response):
    """One caller's stream. Nothing is sent before the model says its first word, or the job's end: if it fails until
    then, that is the answer's status."""

    def __init__(self, parts: Services, request: Request, words: Words, asks: Chatter, wait_s: float) -> None:
        super().__init__()
        self._parts, self._request, self._words, self._asks = parts, request, words, asks
        self._wait_s = wait_s
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what Speech.more does, as long as nothing was sent."""
        try:
            async with listening(self._parts, self._words.ticket, self._wait_s, receive) as speech:
                failed = await self._tell(speech, send)
        except CallerGone:
            if self._begun:
                return
            raise
        except ServiceError as error:
            if not self._begun:
                raise
            failed = _problem(self._request, error, self._words)
        if failed is not None and not self._begun:
            await failed(scope, receive, send)
            return
        if failed is not None:
            await self._write(send, b"data: " + bytes(failed.body) + b"\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, speech: Speech, send: Send) -> Response | None:
        """All of the answer; or what is to be told in the place of its end."""
        words = self._words
        while not isinstance(said := await speech.more(KEEP_ALIVE_S if self._begun else math.inf), Answer):
            await self._write(send, words.more(said) or KEEP_ALIVE)
        reply = read(self._request, words, self._asks, said)
        if isinstance(reply, Response):
            return reply
        rest = words.more(speech.rest(reply.content))
        await self._write(send, rest + words.end(reply, said.ours.get("tokens", 0)))
        return None

    async def _write(self, send: Send, body: bytes) -> None:
        """Waits as long as the caller does not read."""
        if not self._begun:
            self._begun = True
            own = [(name.lower().encode(), value.encode()) for name, value in job_headers(self._words.ticket).items()]
            await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *own]})
            body = self._words.begin() + body
        await write(send, body)
