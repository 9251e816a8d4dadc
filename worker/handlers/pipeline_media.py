"""Bytes of recordings and videos to what a pipeline reads. CPU threads; raises ItemError."""

from __future__ import annotations

import contextlib
import io
import math
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from worker.handler import ItemError

MAX_SAMPLES = 200_000_000  # of one recording: an hour and more of stereo at 24 kHz; a small file can hold far more


def audio(data: bytes, rate: int, pointer: str = "/audio") -> Any:
    """A recording of any rate and number of channels as float32 samples (n,) at `rate` Hz."""
    import soundfile
    from scipy.signal import resample_poly

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            limit, given = MAX_SAMPLES // max(file.channels, 1), file.samplerate
            samples = file.read(frames=limit + 1, dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.SoundFileError, ValueError) as error:
        raise ItemError(f"not a recording that can be decoded: {error}", pointer=pointer) from None
    if len(samples) > limit:
        raise ItemError(f"longer than {limit / given:.0f} s", pointer=pointer)
    if not len(samples):
        raise ItemError("the recording is empty", pointer=pointer)
    if given != rate:
        common = math.gcd(given, rate)
        samples = resample_poly(samples, rate // common, given // common).astype("float32")
    return samples


@contextlib.contextmanager
def video_file(data: bytes, pointer: str = "/video") -> Iterator[str]:
    """The path of a file that holds the video while the block runs: transformers decodes from paths only. What `av`
    cannot decode in it becomes an ItemError."""
    import av

    handle, path = tempfile.mkstemp(suffix=".video")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        with av.open(path) as container:
            if not container.streams.video:
                raise ItemError("the file holds no video", pointer=pointer)
        yield path
    except av.FFmpegError as error:
        raise ItemError(f"not a video that can be decoded: {error.strerror}", pointer=pointer) from None
    finally:
        os.unlink(path)
