"""What all providers' handlers have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.providers import ProviderOptions
from worker.handler import Context, Handler, Prepared
from worker.providers.allowance import Allowance
from worker.providers.faults import broken

CONNECT_S = 5.0
_CHARACTERS_A_TOKEN = 4  # of English text; what a call will take is only estimated
_IMAGE_TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Ask:
    """An item as it is sent: its JSON data, and the parameters of its job."""

    item: Any
    parameters: dict[str, Any]


class ProviderHandler(Handler[Any, Any]):
    """Threads: `predict` from as many at a time as `concurrency` says; the clients of the SDKs take that."""

    uses_torch: ClassVar = False

    def load(self, ctx: Context) -> None:
        """Nothing is asked of the provider: that may cost money."""
        self.options = ProviderOptions.model_validate(ctx.options)
        self.concurrency, self.retries = self.options.concurrency, self.options.retries
        self.who, self.name = ctx.source, ctx.source.partition(":")[2]
        self.timeout_s = ctx.timeout_s
        self._allowance: Allowance | None = ctx.allowance

    def prepare(self, item: Any, parameters: Any) -> Prepared:
        """Items with other parameters are another call."""
        given = parameters.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        given.pop("stream", None)  # an answer of an endpoint comes whole
        asked = item.model_dump(mode="json", exclude_none=True) if isinstance(item, BaseModel) else item
        return Prepared(Ask(asked, given), group=json.dumps(given, sort_keys=True))

    def enter(self, asked: Any, written: int = 0) -> None:
        """Before each call: `written` are the tokens that it may give at most. Raises TryLater."""
        if self._allowance is not None:
            self._allowance.take(_tokens(asked) + written)

    def unload(self) -> None:
        """Closes what counts its rate."""
        if self._allowance is not None:
            self._allowance.close()

    def cost(self, read: int, written: int) -> float:
        """By the prices of models.yaml."""
        price = self.options.price
        return (read * price.input + written * price.output) / 1_000_000

    def checked(self, output: Any) -> Any:
        """JSON data as the task's output. Raises ItemError where it is none."""
        try:
            return TypeAdapter(self.io.output).validate_python(output)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise broken(self.who, f"gave what is no output of {self.io.name}: {where} {fault['msg']}") from None


def _tokens(asked: Any) -> int:
    """About how many: of text by its length, of an image in it a thousand."""
    if isinstance(asked, str):
        return _IMAGE_TOKENS if asked.startswith("data:") else len(asked) // _CHARACTERS_A_TOKEN + 1
    if isinstance(asked, dict):
        return sum(map(_tokens, asked.values()))
    if isinstance(asked, list):
        return sum(map(_tokens, asked))
    return 1


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts by weight; they add up."""
    whole, left, parts = max(1, sum(weights)), total, []
    for weight in weights[:-1]:
        part = total * weight // whole
        parts.append(part)
        left -= part
    return [*parts, left]
