"""`python -m api deliver`: webhooks alone, beside or in the place of the API's own loop (ML_WEBHOOK_DELIVERY=off)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket

from api.deliver.bodies import Bodies
from api.deliver.loop import Deliverer
from api.deliver.secrets import WebhookSecrets
from api.submitter import Submitter
from shared import tracing
from shared.errors import StoreUnavailable
from shared.logs import Event, get_logger
from shared.settings import Settings
from shared.store import acheck_server, aconnect

logger = get_logger("api")


def deliver_command(settings: Settings, arguments: list[str]) -> int:
    """The exit code: 0 after SIGTERM or SIGINT. Raises ConfigError, StoreTooOld."""
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_subparsers(required=True).add_parser("deliver", help="deliver webhooks until SIGTERM")
    parser.parse_args(arguments)
    tracing.configure("ml-service-deliver", f"{socket.gethostname()}-{os.getpid()}")
    asyncio.run(_deliver(settings))
    return 0


async def _deliver(settings: Settings) -> None:
    client = aconnect(settings)
    submitter = Submitter(client)
    with contextlib.suppress(StoreUnavailable):  # it is waited for
        await acheck_server(client)
    bodies = Bodies(submitter, most=settings.webhook_output_bytes)
    deliverer = Deliverer(settings, client, submitter, bodies, WebhookSecrets(submitter))
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    deliverer.start()
    logger.info(Event.STARTED, part="deliver")
    await ended.wait()
    logger.info(Event.STOPPING, part="deliver")
    await deliverer.stop(within_s=settings.webhook_timeout_s)
    await submitter.close()
    await client.aclose()
    logger.info(Event.STOPPED, part="deliver")
