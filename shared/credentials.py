"""The stack's own passwords, in files: so they stand in no environment, command line, log or image.

    python -m shared.credentials FOLDER                  make those that are absent
    python -m shared.credentials FOLDER renew redis      a new one (or: flower)
    python -m shared.credentials FOLDER set redis        the one on stdin

Each has a folder of its own in FOLDER, so that each can be a volume that is mounted only where it is needed.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from shared.errors import ConfigError

NAMES = ("redis", "flower")
BYTES = 32
FLOWER_USER = "admin"


def read_password(path: Path, variable: str) -> str:
    """The one line of a file. Raises ConfigError that names `variable`, and never quotes what stands in the file."""
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except FileNotFoundError:
        raise ConfigError(f"{variable}: there is no file {path}") from None
    except OSError as error:
        raise ConfigError(f"{variable}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{variable}: {path} is not text") from None
    if not text or "\n" in text:
        raise ConfigError(f"{variable}: {path} is {'not one line' if text else 'empty'}")
    return text


def password_file(folder: Path, name: str) -> Path:
    """Where the password of that name lies."""
    return folder / name / "password"


def server_file(folder: Path) -> Path:
    """A configuration file for the Redis server, with the password and nothing else."""
    return folder / "redis" / "redis.conf"


def make(folder: Path, mode: int = 0o600) -> None:
    """Each password that is absent, at random; those that are there stay."""
    for name in NAMES:
        if not password_file(folder, name).exists():
            put(folder, name, secrets.token_urlsafe(BYTES), mode)
    password = read_password(password_file(folder, "redis"), "redis")
    _write(server_file(folder), f'requirepass "{_quoted(password)}"', mode)  # anew: a `put` may have been cut off


def put(folder: Path, name: str, password: str, mode: int = 0o600) -> None:
    """This one from now on, for whoever starts later."""
    password_file(folder, name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(password_file(folder, name), password, mode)


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 done, 1 refused, 2 wrong arguments. The files can be read by all: their folders are volumes,
    and the containers that mount one run as users whose numbers differ by image."""
    folder, *command = arguments or [""]
    try:
        match command:
            case []:
                pass
            case ["renew", name] if name in NAMES:
                put(Path(folder), name, secrets.token_urlsafe(BYTES), 0o444)
            case ["set", name] if name in NAMES:
                put(Path(folder), name, _given(), 0o444)
            case _:
                print(__doc__, file=sys.stderr)  # noqa: T201 - to the person who typed it
                return 2
        make(Path(folder), 0o444)
    except (ConfigError, OSError) as error:
        print(f"credentials: {error}", file=sys.stderr)  # noqa: T201 - likewise
        return 1
    return 0


def _given() -> str:
    password = sys.stdin.readline().rstrip("\r\n")
    if not (password and password.isascii() and password.isprintable()):
        raise ConfigError("a password is one line of printable ASCII, on stdin")
    return password


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _write(path: Path, line: str, mode: int) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
