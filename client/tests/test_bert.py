"""Both clients and a real model."""

from __future__ import annotations

from typing import Any

import pytest

from ml_service_client import InvalidInput


def test_inference(client: Any) -> None:
    client.wait(client.submit("bert", {"text": "load it"}))
    found = client.inference("bert", {"text": "A queue keeps what it was given."}, labels={"tenant": "acme"})
    assert len(found["output"]["embedding"]) == 384
    assert (found.model, found.version) == ("bert", "1")
    assert found.timing.batch_size == 1
    assert client.get(found.job_id).labels == {"tenant": "acme"}


def test_map_with_bad_inputs(client: Any) -> None:
    inputs = [{"text": "a"}, {"txt": "b"}, {"text": "c"}]
    good, bad, other = client.map("bert", inputs, return_errors=True)
    assert len(good["embedding"]) == len(other["embedding"]) == 384
    assert isinstance(bad, InvalidInput)
    with pytest.raises(InvalidInput):
        list(client.map("bert", inputs))
