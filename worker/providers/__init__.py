"""Handlers that ask a managed provider: the same queue, batches and contracts, no device."""

from __future__ import annotations

from typing import ClassVar

from shared.tasks import BUILT_IN, CHAT
from worker.providers.openai import OpenAIChat, OpenAIEmbedding
from worker.providers.provider import ProviderHandler
from worker.providers.sagemaker import SageMakerEndpoint
from worker.providers.vertex import VertexEndpoint

_ENDPOINTS: dict[str, type[ProviderHandler]] = {"sagemaker": SageMakerEndpoint, "vertex": VertexEndpoint}


def provider_handler(provider: str, task: str) -> type[ProviderHandler]:
    """The handler that has `provider` do a built-in task. Raises KeyError for another provider."""
    if provider == "openai":
        return OpenAIChat if task == CHAT.name else OpenAIEmbedding
    base = _ENDPOINTS[provider]

    class _Task(base):  # type: ignore[misc, valid-type]
        io: ClassVar = BUILT_IN[task]

    _Task.__name__ = _Task.__qualname__ = base.__name__
    return _Task
