"""A handler that chats: it says what it was told, word by word, and an exclamation mark."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from shared.chat import ChatItem
from worker.handler import Handler, ItemError, Prepared


class Wish(BaseModel):
    """`stream`: say it while you think of it; `temperature`: of its temper, as far as a parrot has one."""

    stream: bool = False
    temperature: float | None = None


class Parrot(Handler[ChatItem, Any]):
    task = "parrot"
    parameters = Wish
    uses_torch = False
    example = [ChatItem.model_validate({"messages": [{"role": "user", "content": "Hello"}]})]

    def prepare(self, item: ChatItem, parameters: Wish) -> Prepared:
        return Prepared((str(item.messages[-1].content), parameters.stream))

    def predict(self, batch: list[tuple[str, bool]]) -> list[Any]:
        return [self._answer(position, *told) for position, told in enumerate(batch)]

    def _answer(self, position: int, text: str, stream: bool) -> Any:
        if text == "nothing":
            return ItemError("a parrot has nothing to say to nothing", pointer="/messages/0/content")
        say = getattr(self, "say", None)
        for word in text.split() if stream and say else ():
            say(position, word if text.startswith(word) else f" {word}")
        if text == "die":
            raise RuntimeError("this is an ex-parrot")
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": len(text.split()) + 1}
        return {"message": {"content": f"{text}!"}, "finish_reason": "stop", "usage": usage}
