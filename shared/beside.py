"""What a command finds that is typed beside a running `ml-service up`: the Redis of its data folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

from shared.settings import Settings

STATE_FILE = "state.json"


def data_folder() -> Path:
    """Of an `up` without options in this environment and working folder."""
    return Path(os.environ.get("ML_DATA_DIR") or ".ml-service")


def beside_up(settings: Settings) -> Settings:
    """The settings with that Redis, where nothing names another and an `up` runs here."""
    if "redis_url" in settings.model_fields_set:
        return settings
    try:
        redis_url = json.loads((data_folder() / STATE_FILE).read_text(encoding="utf-8"))["redis_url"]
    except FileNotFoundError:
        return settings
    return settings.model_copy(update={"redis_url": redis_url})
