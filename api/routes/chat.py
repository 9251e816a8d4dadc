"""`POST /v1/chat/completions`: the contract of OpenAI's SDKs, https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.answers import job_headers
from api.ask import wait_for
from api.auth import caller_of
from api.bodies import read_model
from api.chat import AsItCame, ChatRequest, Chatter, chatter, no_chat
from api.chat_answers import ChatCompletion, Words
from api.chat_stream import ChatStream, read
from api.deps import Services, services
from api.docs import json_body, openai_errors
from api.inputs import InInput
from api.jobs import refuse_foreign
from api.middleware import headers_of
from api.plain_route import PlainRoute
from api.query import patience_s
from api.submission import NewJob, Ticket
from shared.api_keys import Scope
from shared.errors import InvalidInput

router = APIRouter(prefix="/v1/chat", route_class=PlainRoute)

_EVENTS = {"text/event-stream": {"schema": {"type": "string", "description": "with `stream`: chunks, then [DONE]"}}}


@router.post(
    "/completions",
    summary="The next message of a chat, as OpenAI's SDKs ask for it",
    response_model=None,
    responses={
        200: {"model": ChatCompletion, "content": _EVENTS},
        **openai_errors(400, 401, 403, 404, 409, 413, 429, 500, 502, 503, 504, 507),
    },
    openapi_extra=json_body(ChatRequest),
)
async def completions(request: Request) -> Response:
    """One job, and its answer; with `stream` as it is written, where the model can. It is waited for as long as the
    client waits (`x-stainless-read-timeout`, which OpenAI's SDKs send), `ML_MAX_WAIT_S` (60 s) at most."""
    parts = services(request)
    caller = caller_of(request, Scope.SUBMIT)
    asked = read_model(ChatRequest, await request.body())
    new = NewJob(asked.model, caller=caller, headers=headers_of(request))
    refuse_foreign(new)
    ref = parts.catalog.resolve(asked.model)
    new.picked = not new.pinned
    new.model, new.version = ref.model, ref.version
    asks = chatter(asked, parts.catalog.spec(ref.model), await parts.presence.input_check(ref))
    new.input, new.parameters = asks.input(), asks.parameters
    new.labels = {} if asked.user is None else {"user": asked.user}
    new.deadline_s = patience_s(request, parts.settings)
    words = Words(asked, await _submit(parts, new, asks))
    if asked.stream:
        return ChatStream(parts, request, words, asks, new.deadline_s)
    answer = await wait_for(parts, words.ticket, new.deadline_s, request.receive)
    reply = read(request, words, asks, answer)
    if isinstance(reply, Response):
        return reply
    headers = job_headers(words.ticket)
    body = words.completion(reply, answer.ours.get("tokens", 0))
    return Response(body, headers=headers, media_type="application/json")


async def _submit(parts: Services, new: NewJob, asks: Chatter) -> Ticket:
    """Raises InvalidInput whose faults point into the request."""
    try:
        return await parts.jobs.submit(new, wait=True)
    except InInput as error:
        if isinstance(asks, AsItCame) and any(_is_elsewhere(fault.pointer) for fault in error.faults):
            raise no_chat(new.model) from None  # a handler of something else
        raise InvalidInput(error.message, faults=[asks.place(fault) for fault in error.faults]) from None
    except InvalidInput as error:
        raise InvalidInput(error.message, faults=[asks.place(fault) for fault in error.faults]) from None


def _is_elsewhere(pointer: str) -> bool:
    """Than in the messages, which are all that a chat has."""
    return pointer != "/messages" and not pointer.startswith("/messages/")
