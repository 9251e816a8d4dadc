"""The Open Inference Protocol v2 by its clients, Triton's and KServe's, against a real API and a real worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import Ask
from worker.handlers.images import sample_image

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


def test_triton(ask: Ask, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(sample_image(64))
    found = ask("main", "ask_triton.py", str(picture))
    assert "nope" in found.pop("no_model")[1]
    assert "API key" in found.pop("no_key")[1]
    assert "text[0]" in found.pop("empty")[1]
    assert found.pop("max_batch_size") > 1
    assert found == {
        "live": [True, True, True],
        "server": "ml-service",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "statistics": 1,
        "index": ["bert", "by-ids", "cnn", "llama", "org/echo", "parrot"],
        "unloaded": False,
        "loaded": True,
        "embedding": ["42", [2, 384], "float32"],
        "json_is_binary": True,
        "compressed": True,
        "async_infer": True,
        "file": [[1, 3], "float32"],
        "pixels": [2, True],
        "aio": True,
    }


def test_kserve(ask: Ask) -> None:
    found = ask("kserve", "ask_kserve.py")
    assert "nope" in found.pop("no_model")
    assert found == {"live": [True, True], "model": True, "embedding": ["bert", "embedding", [2, 384]]}
