"""`/ping` and `/invocations`: what SageMaker asks of a container, on any port.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.ask import ask
from api.bodies import INFERENCE, read_job
from api.deps import services
from api.docs import BINARY, INFERENCE_BODY, problems
from api.errors import problem
from api.jobs import prefixed
from api.readiness import check
from api.routes.inference import answer_response
from api.schemas import InferenceAnswer
from shared.errors import InvalidInput

router = APIRouter()

_MOST_S = 58.0  # SageMaker gives up after 60


@router.get("/ping", summary="SageMaker: a worker has the model", response_class=Response, responses=problems(503))
async def ping(request: Request) -> Response:
    """200 when each model (or `ML_DEFAULT_MODEL`) that takes calls has a living worker; until then 503."""
    parts = services(request)
    names = [parts.settings.default_model] if parts.settings.default_model else list(parts.catalog.models)
    for name in names:
        missing = next((one for one in await check(parts, name) if not one.ready), None)
        if missing is not None:
            return problem(request, missing.code, f"{missing.name}: {missing.detail}", status=503)
    return Response()


@router.post(
    "/invocations",
    summary="SageMaker: run the model",
    response_model=None,
    responses={
        200: {"model": InferenceAnswer, "content": BINARY},
        **problems(400, 401, 403, 404, 406, 409, 413, 415, 422, 429, 500, 502, 503, 504, 507),
    },
    openapi_extra=INFERENCE_BODY,
)
async def invocations(request: Request) -> Response:
    """As `POST /inference`; also a text (`text/plain`). Without `model_type`: `ML_DEFAULT_MODEL`, or the only model. It
    is waited for up to `ML_MAX_WAIT_S`, 58 s at most: SageMaker gives up after 60."""
    parts = services(request)
    default = parts.settings.default_model
    new = await read_job(request, INFERENCE, parts.catalog, default_model=default, plain_text=True)
    try:
        answer = await ask(parts, new, min(parts.settings.max_wait_s, _MOST_S), request.receive)
    except InvalidInput as error:
        raise prefixed(error, "data") from None
    return answer_response(request, answer)
