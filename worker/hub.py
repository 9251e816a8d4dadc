"""Models of the Hugging Face hub: a repository's files in a local folder, without the same weights in other formats."""

from __future__ import annotations

from pathlib import Path

from shared.errors import ConfigError
from shared.settings import Settings
from worker.cache import cache_folders, writable_cache

# The same weights for other frameworks and runtimes, and what a training has left.
_NOT_OURS = [
    *("onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.gguf", "*.mlmodel", "coreml/*"),
    *("*.ckpt", "*.pt", "*.pth", "training_args.bin", "optimizer.bin", "runs/*"),
]
_PICKLES = ["*.bin"]


def hub_folder(name: str, revision: str | None, settings: Settings, *, onnx: bool = False) -> Path:
    """A snapshot of the repository `name` at `revision` (a branch, tag or commit; None: the default branch): from
    MODEL_CACHE_DIR or the hub's own cache, else downloaded there. Weights in safetensors; only where there are none
    those of torch's own format; with `onnx` the .onnx files instead. With HF_HUB_OFFLINE nothing is asked for. Raises
    ConfigError."""
    from huggingface_hub import constants, snapshot_download

    found = cached_hub_folder(name, revision, settings, onnx=onnx)
    if found is not None and (constants.HF_HUB_OFFLINE or _is_commit(revision)):
        return found
    cache = writable_cache(settings, "hub") if settings.model_cache_dir else None
    unwanted = _NOT_OURS + _PICKLES
    if onnx:
        unwanted = ["*.safetensors", *(pattern for pattern in unwanted if "onnx" not in pattern)]
    try:
        folder = Path(snapshot_download(name, revision=revision, cache_dir=cache, ignore_patterns=unwanted))
        if not onnx and not any(folder.rglob("*.safetensors")):
            folder = Path(snapshot_download(name, revision=revision, cache_dir=cache, ignore_patterns=_NOT_OURS))
    # The hub's client raises many kinds (offline, not found, no such name, connection); one answer fits all.
    except Exception as error:
        if found is not None:  # the hub is away; a branch may have moved since
            return found
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set, and it is in no cache; run `ml-service pull` where the hub can be reached"
        at = f" at revision {revision!r}" if revision else ""
        raise ConfigError(
            f"source {name!r}{at} is neither a file or folder here nor a model that the hub gives: {reason}"
        ) from error
    return folder


def cached_hub_folder(name: str, revision: str | None, settings: Settings, *, onnx: bool = False) -> Path | None:
    """What of it is here already; asks nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    for cache in (*cache_folders(settings, "hub"), None):
        try:
            folder = Path(snapshot_download(name, revision=revision, cache_dir=cache, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):  # nothing there, or no name of a repository
            continue
        if any(any(folder.rglob(f"*{suffix}")) for suffix in ([".onnx"] if onnx else [".safetensors", ".bin"])):
            return folder
    return None


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and set(revision) <= set("0123456789abcdef")
