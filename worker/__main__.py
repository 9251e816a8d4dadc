"""`python -m worker`: claim the device, load and warm the models, consume. Also `check`, `pull` and `healthcheck`."""

from __future__ import annotations

import sys

from shared import health

EXIT_CONFIG = 1


def main(arguments: list[str]) -> int:
    """The exit code: 0 clean, 1 refused to start (configuration, a preloaded model failed), 70 the device hung."""
    if arguments[:1] == ["healthcheck"]:
        return health.check(health.path_from_environment(), replace="--replace" in arguments)
    from shared.errors import ConfigError, StoreTooOld, StoreUnavailable, UnknownModel
    from shared.logs import Event, configure_logs, get_logger
    from shared.settings import load_settings

    configure_logs("INFO", "text")  # until it is known how; the settings may be what is wrong
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        command = arguments[0] if arguments else "run"
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
        from worker.heap import keep_heap

        keep_heap()  # before torch is imported, which begins threads
        from worker.run import run

        return run(settings)
    except (ConfigError, StoreTooOld, StoreUnavailable, UnknownModel) as error:
        get_logger("worker").error(Event.CONFIG_REFUSED, error=error.message)
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
