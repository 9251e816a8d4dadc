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

# A small file can hold far more than these, or claim it.
MAX_SAMPLES = 200_000_000  # of one recording, as it comes and as the model reads it: three hours at 16 kHz
_UNKNOWN = 2**62  # libsndfile's "nobody knows" is 2^63 - 1
MAX_VIDEO_S = 7200
RATES_HZ = (1_000, 768_000)  # resampled from 1 Hz a second becomes hours; from 2 GHz the filter alone fills the memory
MAX_FRAME_PIXELS = 9_437_184  # of a video: 4096 x 2304
# FFmpeg would also open playlists, which name other files and hosts; these hold what they play.
_ONLY = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi", "protocol_whitelist": "file"}


def audio(data: bytes, rate: int, pointer: str = "/audio") -> Any:
    """A recording of any rate and number of channels as float32 samples (n,) at `rate` Hz."""
    import numpy
    import soundfile
    from scipy.signal import resample_poly

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            given = file.samplerate
            if not RATES_HZ[0] <= given <= RATES_HZ[1]:
                raise ItemError(
                    f"a sampling rate of {given} Hz; {RATES_HZ[0]} to {RATES_HZ[1]} are read", pointer=pointer
                )
            limit = min(MAX_SAMPLES // max(file.channels, 1), MAX_SAMPLES * given // rate)
            told = file.frames if file.frames < _UNKNOWN else 0
            channels = file.read(frames=0 if told > limit else limit + 1, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, ValueError) as error:
        raise ItemError(f"not a recording that can be decoded: {error}", pointer=pointer) from None
    if max(told, len(channels)) > limit:
        raise ItemError(f"longer than {limit / given:.0f} s", pointer=pointer)
    if not len(channels):
        raise ItemError("the recording is empty", pointer=pointer)
    with numpy.errstate(over="ignore", invalid="ignore"):  # whatever is no number then, is refused below
        samples = channels.mean(axis=1)
        del channels  # as large again, or larger
        if given != rate:
            common = math.gcd(given, rate)
            samples = resample_poly(samples, rate // common, given // common).astype("float32")
    if not numpy.isfinite(samples).all():
        raise ItemError("the recording holds samples that are no finite numbers", pointer=pointer)
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
        with av.open(path, options=_ONLY) as container:
            _check_video(container, pointer)
        yield path
    except av.FFmpegError as error:
        raise ItemError(f"not a video that can be decoded: {error.strerror}", pointer=pointer) from None
    except UnicodeDecodeError:
        raise ItemError("the video's title or other metadata is not UTF-8", pointer=pointer) from None
    finally:
        os.unlink(path)


def _check_video(container: Any, pointer: str) -> None:
    """By what it says of itself."""
    import av

    if not container.streams.video:
        raise ItemError("the file holds no video", pointer=pointer)
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ItemError("the video is coded in a way that is not known here", pointer=pointer)
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        raise ItemError(f"the video's frames have more than {MAX_FRAME_PIXELS} pixels", pointer=pointer)
    if not stream.average_rate:
        raise ItemError("the video does not tell its frame rate", pointer=pointer)
    told = max((container.duration or 0) / av.time_base, stream.frames / stream.average_rate)
    if told > MAX_VIDEO_S:
        raise ItemError(f"longer than {MAX_VIDEO_S} s", pointer=pointer)
