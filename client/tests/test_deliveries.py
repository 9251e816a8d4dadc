"""Webhooks from the sender's side: secrets, what was delivered, and again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from conftest import wait_until

from ml_service_client import WebhookEvent, verify_webhook


@pytest.fixture
def received() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """The URL of a receiver, and what it has received."""
    found: list[tuple[dict[str, str], bytes]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", found
        server.shutdown()
        thread.join()


def test_delivered_verified_and_again(client: Any, received: Any) -> None:
    where, found = received
    job = client.wait(client.submit("echo", {"n": 1}, webhook={"url": where, "events": ["succeeded"]}))
    wait_until(lambda: found)
    secret = client.webhook_secret().secret
    event: WebhookEvent = verify_webhook(*found[0], secret)
    assert (event.type, event.job and event.job.id) == ("job.succeeded", job.id)
    wait_until(lambda: client.deliveries(job)[0].state == "delivered")
    (delivery,) = client.deliveries(job)
    assert (delivery.url, [one.status for one in delivery.attempts]) == (where, [204])
    client.redeliver(job)
    wait_until(lambda: len(found) == 2)
    assert verify_webhook(*found[1], secret).id == event.id == delivery.id, "so that nothing is done twice"


def test_while_the_secret_rotates(client: Any, received: Any) -> None:
    where, found = received
    before = client.webhook_secret()
    after = client.rotate_webhook_secret(grace_s=600)
    assert after.secret != before.secret
    assert after.previous_until is not None
    assert after.secret not in repr(after)
    client.submit("echo", 1, webhook=where)
    wait_until(lambda: found)
    for secret in (before.secret, after.secret):
        assert verify_webhook(*found[0], secret).type == "job.succeeded"
