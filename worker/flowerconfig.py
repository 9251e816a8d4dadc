"""Flower with a login: `celery -A worker.app flower --conf=worker/flowerconfig.py`. Flower itself runs this file at its
start, and would let everybody in who reaches its port where nothing says otherwise: this one refuses to start then."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tornado.options import options

from shared.credentials import FLOWER_USER, read_password
from shared.errors import ConfigError


def _logins() -> list[str]:
    if path := os.environ.get("FLOWER_PASSWORD_FILE"):
        try:
            return [f"{FLOWER_USER}:{read_password(Path(path), 'FLOWER_PASSWORD_FILE')}"]
        except ConfigError as error:
            sys.exit(f"flower: {error}")
    logins: list[str] = options.basic_auth
    if not (logins or options.auth):
        sys.exit("flower: set FLOWER_PASSWORD_FILE, or FLOWER_BASIC_AUTH=user:password; without a login all may revoke")
    return logins


basic_auth = _logins()
