"""Where model files that were fetched are kept: MODEL_CACHE_DIR, or the service's own folder where that is not set or
is mounted for reading alone."""

from __future__ import annotations

import os
from pathlib import Path

from shared.settings import Settings


def cache_folders(settings: Settings, kind: str) -> list[Path]:
    """To look in, the first first; they need not exist."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ml-service"
    folders = [own] if settings.model_cache_dir is None else [settings.model_cache_dir, own]
    return [folder / kind for folder in folders]


def writable_cache(settings: Settings, kind: str) -> Path:
    """To write to. Raises OSError where there is none."""
    *others, last = cache_folders(settings, kind)
    for folder in others:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    last.mkdir(parents=True, exist_ok=True)
    return last
