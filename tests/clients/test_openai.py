"""OpenAI's own SDK, the newest and the last 1.x, against a real API with keys on and a real worker."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Ask

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


@pytest.mark.parametrize(("of", "version"), [("main", "3."), ("openai1", "1.109.1")])
def test_embeddings_and_models(ask: Ask, of: str, version: str) -> None:
    found = ask(of, "ask_openai.py")
    assert found.pop("version").startswith(version)
    assert found.pop("same") < 1e-6
    assert found.pop("by_ids") < 1e-6
    assert found == {
        "one": [1, 384, "bert", 3],
        "indices": [0, 1],
        "three": 3,
        "no_ids": ["BadRequestError", "invalid_value", "input", True],
        "empty": ["BadRequestError", "invalid_value", "input", True],
        "dimensions": ["BadRequestError", "invalid_value", "dimensions", True],
        "model": ["NotFoundError", "model_not_found", None, True],
        "models": ["bert", "by-ids", "cnn", "llama", "org/echo", "parrot"],
        "model_of_org": "org/echo",
        "no_model": "model_not_found",
        "no_key": "invalid_api_key",
    }


@pytest.mark.parametrize("of", ["main", "openai1"])
def test_chats(ask: Ask, of: str) -> None:
    found = ask(of, "ask_openai_chat.py")
    del found["version"]
    dead = found.pop("dead")
    assert dead[:2] == ["InternalServerError", "predict_error"]
    assert found == {
        "one": ["chat.completion", "parrot", "assistant", "Polly wants a cracker!", "stop"],
        "usage": [4, 5, 9],
        "stream": ["one two three!", "assistant", "stop", 1, []],
        "with_usage": ["one two three!", "assistant", "stop", 1, [7]],
        "llama": ["length", 5, True],
        "same": True,
        "nothing": ["BadRequestError", "invalid_value", "messages[0].content"],
        "nothing_streamed": ["BadRequestError", "invalid_value", "messages[0].content"],
        "field": ["BadRequestError", "invalid_value", "colour"],
        "parameter": ["BadRequestError", "invalid_value", "n"],
        "seed": ["BadRequestError", "invalid_value", "seed"],
        "no_chat": ["BadRequestError", "invalid_value", "model"],
        "no_model": ["NotFoundError", "model_not_found", None],
    }
