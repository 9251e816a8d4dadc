"""Both clients and a real model."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from ml_service_client import InvalidInput, MLServiceError

pytestmark = pytest.mark.usefixtures("bert")


def test_inference(client: Any) -> None:
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


def test_embeddings_as_bytes(client: Any) -> None:
    texts = {"texts": ["one", "two"]}
    job = client.wait(client.submit("bert", texts))
    expected = job.result()["embeddings"]
    for found in (client.inference_array("bert", texts), client.output_array(job)):
        assert found.shape == (2, 384)
        assert found.numpy() == pytest.approx(numpy.array(expected), abs=1e-6)
    one = client.inference_array("bert", {"text": "one"})
    assert one.shape == (384,)
    with pytest.raises(MLServiceError) as caught:
        client.inference_array("echo", {"no": "numbers"})
    assert caught.value.status == 406
