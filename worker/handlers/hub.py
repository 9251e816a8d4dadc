"""Model files of a hub id, in a local folder."""

from __future__ import annotations

from pathlib import Path

from shared.errors import ConfigError

_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_OTHER_FORMATS = ["onnx/*", "openvino/*", "*.onnx"]


def local_folder(source: str) -> Path:
    """`source` itself if it is a folder, else a snapshot of the hub's repository of that name (downloaded once, kept
    in the hub's own cache). Raises ConfigError when it can be had neither here nor there."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source, allow_patterns=_FILES, ignore_patterns=_OTHER_FORMATS))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(source, allow_patterns=[*_FILES, "*.bin"], ignore_patterns=_OTHER_FORMATS))
    # The hub's client raises many kinds (offline, not found, no such name, connection); one answer fits all.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"source {source!r} is neither a folder nor a model that the hub gives: {reason}") from error
    return folder
