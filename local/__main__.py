"""`python -m local up`: the whole stack on one machine. `python -m local serve`: as a model container."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from local import serve
from local.stack import Options
from local.up import up
from shared.beside import data_folder
from shared.errors import ConfigError, StoreTooOld


def parse(arguments: Sequence[str]) -> Options:
    """The options; the environment gives the defaults. Raises ConfigError."""
    env = os.environ
    parser = argparse.ArgumentParser(prog="ml-service", description="The whole stack on one machine.")
    commands = parser.add_subparsers(required=True, metavar="up|serve")
    commands.add_parser("serve", help="as SageMaker and Vertex AI start a model container (see docs/clients.md)")
    command = commands.add_parser(
        "up",
        help="start it and keep it running",
        description="Start a Redis-protocol server, the API, the workers and Flower, and keep them running until "
        "Ctrl-C. With ML_REDIS_URL set, that server is used and none is started.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = command.add_argument
    add("--data-dir", type=Path, default=data_folder(), help="accepted jobs and state.json")
    add("--models", type=Path, default=env.get("ML_MODELS_FILE", "models.yaml"), help="the models file")
    add("--apis", type=_count, default=1, help="API processes, which share the port")
    add("--workers", type=_count, default=1, help="worker processes")
    add("--host", default=env.get("ML_HOST", "127.0.0.1"), help="where the API listens")
    add("--port", type=_port, default=env.get("ML_PORT", "8001"), help="of the API; 0: any free one")
    add("--flower-port", type=_port, default="5555", help="0: any free one")
    add("--redis-port", type=_port, default="0", help="of the embedded server; 0: any free one")
    add("--reload", action="store_true", help="restart what a changed file touches (for development)")
    given = vars(parser.parse_args(arguments))
    return Options(redis_url=env.get("ML_REDIS_URL", ""), **given) if given else serve.options(env, data_folder())


def _port(text: str) -> int:
    return _whole(text, 0, 65535, "a port")


def _count(text: str) -> int:
    return _whole(text, 1, 256, "a number of processes")


def _whole(text: str, least: int, most: int, what: str) -> int:
    if not (text.isdecimal() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}, {least} to {most}")
    return int(text)


def main() -> int:
    """Exit code: 0 stopped cleanly, 1 refused or given up, 2 wrong options."""
    try:
        options = parse(sys.argv[1:])
        if sys.argv[1] == "serve":
            os.environ |= serve.environment(os.environ)
        return up(options)
    except (ConfigError, StoreTooOld) as error:
        print(f"ml-service: {error}", file=sys.stderr)  # noqa: T201 - the answer to a command
        return 1


if __name__ == "__main__":
    sys.exit(main())
