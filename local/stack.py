"""What `up` runs: the command, environment and order of each process of the stack."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from local import ports
from local.server import find_server, server_command, socket_path
from local.supervisor import Spec
from shared import credentials
from shared.errors import ConfigError
from shared.redis_url import Address
from shared.settings import Settings

STOP_MARGIN_S = 10.0  # over a process's own grace, before it is killed


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `up`. A port of 0 is any free one; `redis_url` empty starts the embedded server."""

    data_dir: Path
    models: Path
    host: str = "127.0.0.1"
    port: int = 8001
    flower_port: int = 5555
    redis_port: int = 0
    redis_url: str = ""
    apis: int = 1
    workers: int = 1
    reload: bool = False


@dataclass(frozen=True, slots=True)
class Stack:
    """Specs in the order of their start, and where they answer."""

    redis: Spec | None
    apis: tuple[Spec, ...]
    workers: tuple[Spec, ...]
    flower: Spec
    redis_url: str
    redis_address: Address
    api_host: str
    api_port: int
    flower_url: str
    flower_password: Path

    @property
    def api_url(self) -> str:
        """For clients on this machine."""
        local = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
        host = local.get(self.api_host, self.api_host)
        return f"http://[{host}]:{self.api_port}" if ":" in host else f"http://{host}:{self.api_port}"


def listen(options: Options) -> socket.socket:
    """The API's socket, for all its processes and all their lives: between two of them callers wait in its backlog.
    Raises ConfigError that names the option in the way."""
    try:
        return ports.listen(options.host, options.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _taken(options.port, "--port") from None
        raise ConfigError(f"--host {options.host}, --port {options.port}: {error.strerror}") from None


def build(options: Options, settings: Settings, lock_fd: int, listener: socket.socket) -> Stack:
    """Pick the other ports and write the command lines. Raises ConfigError that names the port or package in the
    way."""
    _installed("uvicorn", "celery", "flower")
    flower_port = _port(options.flower_port, "--flower-port")
    secrets = options.data_dir / "secrets"
    credentials.make(secrets)
    redis, redis_url, reached = None, options.redis_url, {"ML_REDIS_URL": options.redis_url}
    if not redis_url:
        redis, redis_url, reached = _redis(options, settings, lock_fd, secrets)
    env = _environment(os.environ, options) | reached
    python = (sys.executable, "-u", "-m")
    counted = {"PROMETHEUS_MULTIPROC_DIR": str(_metrics_folder(options))} if options.apis > 1 else {}
    metrics_port = os.environ.get("ML_METRICS_PORT", "0") if options.workers == 1 else "0"
    return Stack(
        redis=redis,
        apis=tuple(
            Spec(
                name,
                (*python, "api"),
                env | {"ML_LISTEN_FD": str(listener.fileno())} | counted,
                stop_s=settings.drain_s + STOP_MARGIN_S,
                keep_fds=(listener.fileno(),),
            )
            for name in (["api"] if options.apis == 1 else [f"api-{n}" for n in range(1, options.apis + 1)])
        ),
        workers=tuple(
            Spec(
                f"worker-{n}",
                (*python, "worker"),
                env
                | {
                    "ML_WORKER_NAME": f"worker-{n}",
                    "ML_METRICS_PORT": metrics_port,
                    "ML_HEALTH_FILE": str(_health_file(options, n)),
                },
                stop_s=settings.grace_s + STOP_MARGIN_S,
                health=_health_file(options, n),
            )
            for n in range(1, options.workers + 1)
        ),
        flower=_flower(options, flower_port, env, secrets),
        redis_url=redis_url,
        redis_address=settings.model_copy(update={"redis_url": redis_url}).redis_address(),
        api_host=options.host,
        api_port=listener.getsockname()[1],
        flower_url=f"http://127.0.0.1:{flower_port}",
        flower_password=credentials.password_file(secrets, "flower"),
    )


def _health_file(options: Options, n: int) -> Path:
    """In the data folder: in the temporary one, another stack has a worker of that name."""
    return options.data_dir.resolve() / f"worker-{n}.alive"


def _redis(options: Options, settings: Settings, lock_fd: int, secrets: Path) -> tuple[Spec, str, dict[str, str]]:
    """The embedded server, its URL with the password (other users of this machine reach its port too), and what leads
    the other processes to it, by its Unix socket where it can have one, with the password in no environment."""
    port = _port(options.redis_port, "--redis-port")
    folder = options.data_dir / "redis"
    folder.mkdir(exist_ok=True, mode=0o700)
    unix = socket_path(folder)
    command = server_command(
        find_server(),
        folder,
        port,
        appendfsync="always" if settings.durability == "fsync" else "everysec",
        config=credentials.server_file(secrets),
        unix=unix,
    )
    spec = Spec(
        "redis",
        tuple(command),
        stop_s=60,
        orphan_signal=signal.SIGTERM,  # it flushes the AOF even then
        keep_fds=(lock_fd,),
    )
    place, file = f"127.0.0.1:{port}/0", credentials.password_file(secrets, "redis")
    url = f"redis://:{quote(credentials.read_password(file, 'redis'), safe='')}@{place}"
    near = f"redis+socket://{quote(str(unix))}" if unix else f"redis://{place}"
    return spec, url, {"ML_REDIS_URL": near, "ML_REDIS_PASSWORD_FILE": str(file.resolve())}


def _flower(options: Options, port: int, env: Mapping[str, str], secrets: Path) -> Spec:
    """What it has seen outlives it: written at every stop, and every minute."""
    folder = options.data_dir / "flower"
    folder.mkdir(exist_ok=True, mode=0o700)
    config = Path(__file__).parents[1] / "worker" / "flowerconfig.py"
    own = {
        "FLOWER_PASSWORD_FILE": str(credentials.password_file(secrets, "flower").resolve()),
        "FLOWER_PERSISTENT": "true",
        "FLOWER_DB": str(folder.resolve() / "state"),
        "FLOWER_MAX_TASKS": os.environ.get("FLOWER_MAX_TASKS", "10000"),
        "FLOWER_STATE_SAVE_INTERVAL": os.environ.get("FLOWER_STATE_SAVE_INTERVAL", "60000"),  # milliseconds
    }
    command = (sys.executable, "-u", "-m", "celery", "-A", "worker.app", "flower", f"--conf={config}")
    return Spec("flower", (*command, "--address=127.0.0.1", f"--port={port}"), {**env, **own})


def _environment(current: Mapping[str, str], options: Options) -> dict[str, str]:
    env = {
        "ML_MODELS_FILE": str(options.models.resolve()),
        "ML_LOG_FORMAT": current.get("ML_LOG_FORMAT", "text"),  # here a person reads it
    }
    if options.reload:  # whoever edits does not want to wait for a drain
        env |= {name: current.get(name, "2") for name in ("ML_DRAIN_S", "ML_GRACE_S")}
    return env


def _metrics_folder(options: Options) -> Path:
    """Where several API processes count together, so that a scrape of any tells of all. Counts begin at each start."""
    folder = options.data_dir.resolve() / "metrics"
    folder.mkdir(exist_ok=True, mode=0o700)
    for left in folder.glob("*.db"):
        left.unlink()
    return folder


def _port(port: int, option: str) -> int:
    if port == 0:
        return ports.free_port()
    if not ports.is_free(port):
        raise _taken(port, option)
    return port


def _taken(port: int, option: str) -> ConfigError:
    return ConfigError(f"port {port} is taken by another program; choose one with {option} (0: any free one)")


def _installed(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"not installed: {', '.join(missing)}; install the service with its extra `local`")
