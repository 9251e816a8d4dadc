"""An address or a path in place of a file makes nobody connect or read, in the API or the worker.

transformers' pipelines fetch a text that begins with http:// in place of an image, a recording or a video, follow its
redirects and open paths: they must never get one.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from api.inputs import TaskCheck
from shared.errors import InvalidInput
from shared.tasks import BUILT_IN, Split, parse_item
from tests.pipeline_models import loader
from worker.handler import ItemError
from worker.handlers.pipeline import PipelineHandler
from worker.inprocess import run_items

BINARY = {name: sorted(TaskCheck(task).blobs) for name, task in BUILT_IN.items() if TaskCheck(task).blobs}
LABELS = {"candidate_labels": ["a"]}
SERVED = ("image-classification", "audio-classification", "video-classification", "image-text-to-text")


class Spy:
    """A server that counts who connects."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def forms(self) -> list[str]:
        """What a caller may write in place of a file."""
        schemes = [f"{scheme}://{self.address}/a" for scheme in ("http", "https", "HTTP", "ftp", "rtsp", "tcp")]
        return [
            *schemes,
            f"//{self.address}/a",
            "file:///etc/hostname",
            "/etc/hostname",
            f"hls+http://{self.address}/a",
        ]


@pytest.fixture
def spy() -> Iterator[Spy]:
    found = Spy()
    yield found
    assert found.connections == 0
    # The spy itself works.
    socket.create_connection(found.socket.getsockname()).close()
    for _ in range(1000):
        if found.connections:
            break
        threading.Event().wait(0.01)
    assert found.connections == 1
    found.socket.close()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PipelineHandler]:
    return loader(tmp_path_factory.mktemp("models"))


def test_there_are_binary_tasks() -> None:
    assert set(SERVED) <= set(BINARY)
    assert len(BINARY) >= 15


@pytest.mark.parametrize("name", sorted(BINARY))
def test_the_api_and_the_worker_refuse_an_address_for_a_file(name: str, spy: Spy) -> None:
    task = BUILT_IN[name]
    for field in BINARY[name]:
        for form in spy.forms():
            value: Any = {"text": "x", "question": "x", field: [form, form] if field.endswith("s") else form}
            value = {key: value[key] for key in value if key == field or key in task.item.model_fields}
            with pytest.raises(InvalidInput) as caught:
                TaskCheck(task).check(value, LABELS if name.startswith("zero-shot") else {})
            assert any(field.removesuffix("s") in fault.pointer for fault in caught.value.faults), form
            with pytest.raises(InvalidInput):
                parse_item(task, Split([value], "one"), 0)


@pytest.mark.parametrize("name", SERVED)
def test_a_file_that_holds_an_address_is_no_address(
    name: str, spy: Spy, loaded: Callable[..., PipelineHandler]
) -> None:
    handler = loaded(name)
    (field, *_) = [field for field in BINARY[name] if not field.endswith("s")]
    contents = [form.encode() for form in spy.forms()]
    contents += [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://{spy.address}/a.ts\n#EXT-X-ENDLIST\n".encode(),
        f"ffconcat version 1.0\nfile http://{spy.address}/a.mp4\n".encode(),
        f"v=0\no=- 0 0 IN IP4 {spy.address}\nm=video 9 RTP/AVP 96\nc=IN IP4 {spy.address}\n".encode(),
        f'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://{spy.address}/a"/></svg>'.encode(),
        f"<MPD><BaseURL>http://{spy.address}/</BaseURL></MPD>".encode(),
    ]
    extra = {"text": "<image>?"} if name == "image-text-to-text" else {}
    items = [handler.io.item.model_validate({field: content, **extra}) for content in contents]
    for answer in run_items(handler, items, handler.io.parameters()):
        assert isinstance(answer, ItemError)
        assert (answer.code, answer.pointer) == ("invalid_input", f"/{field}")


def test_a_chat_names_no_address(spy: Spy, loaded: Callable[..., PipelineHandler]) -> None:
    handler = loaded("image-text-to-text")
    url = f"http://{spy.address}/a.png"
    parts: list[Any] = [
        {"type": "image", "image": url},
        {"type": "image", "url": url},
        {"type": "image", "path": "/etc/hostname"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "video", "video": url},
    ]
    for part in parts:
        with pytest.raises(InvalidInput):
            parse_item(handler.io, Split([{"text": [{"role": "user", "content": [part]}]}], "one"), 0)
    texts = [url, [{"role": "user", "content": url}], [{"role": "user", "content": [{"type": "text", "text": url}]}]]
    parameters = handler.io.parameters.model_validate({"max_new_tokens": 2})
    for text in texts:
        item = parse_item(handler.io, Split([{"text": text}], "one"), 0)
        with contextlib.suppress(Exception):  # whether a tiny model can is not the question here
            run_items(handler, [item], parameters)
