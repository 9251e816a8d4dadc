"""`python -m worker`: claim the device, load and warm the models, consume. Also `check`, `pull` and `healthcheck`."""

from __future__ import annotations

import sys
import time

from shared.errors import ConfigError, StoreTooOld, StoreUnavailable
from shared.logs import Event, configure_logs, get_logger
from shared.settings import Settings, load_settings

EXIT_CONFIG = 1


def main(arguments: list[str]) -> int:
    """The exit code: 0 clean, 1 refused to start (configuration, a preloaded model failed), 70 the device hung."""
    configure_logs("INFO", "text")  # until it is known how; the settings may be what is wrong
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        command = arguments[0] if arguments else "run"
        if command == "healthcheck":
            return healthcheck(settings)
        if command == "check":
            from worker.check import check

            return check(settings, arguments[1:])
        if command == "pull":
            from worker.pull import pull

            return pull(settings, arguments[1:])
        if command != "run":
            told = f"unknown command {command!r}; use none, check, pull or healthcheck"
            print(f"python -m worker: {told}", file=sys.stderr)  # noqa: T201  # to the person who typed it
            return 2
        from worker.run import run

        return run(settings)
    except (ConfigError, StoreTooOld, StoreUnavailable) as error:
        get_logger("worker").error(Event.CONFIG_REFUSED, error=error.message)
        return EXIT_CONFIG


def healthcheck(settings: Settings) -> int:
    """0 when the worker of this container has shown life within three beats."""
    try:
        age = time.time() - settings.health_path().stat().st_mtime
    except FileNotFoundError:
        return 1
    return 0 if age <= 3 * min(settings.heartbeat_s, settings.lease_s / 4) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
