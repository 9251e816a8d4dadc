"""Files that claim much, hold little, or are not what they say. All are made here."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_claiming(width: int, height: int, *, rows: bytes = b"") -> bytes:
    """An 8-bit grey PNG whose head says this, with `rows` for its pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_text_bomb() -> bytes:
    """A compressed comment of 100 MB."""
    data = b"a\0\0" + zlib.compress(bytes(100_000_000), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    plain = saved(Image.new("L", (8, 8)), "PNG")
    return plain[:33] + chunk + plain[33:]


def gif_claiming(width: int, height: int) -> bytes:
    plain = saved(Image.new("P", (8, 8)), "GIF")
    return plain[:6] + struct.pack("<HH", width, height) + plain[10:]


def tiff_claiming(width: int, height: int) -> bytes:
    """One strip, its bytes told and not there."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 4)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)


def bmp_claiming(width: int, height: int) -> bytes:
    plain = saved(Image.new("RGB", (8, 8)), "BMP")
    return plain[:18] + struct.pack("<ii", width, height) + plain[26:]


def webp_claiming(width: int, height: int) -> bytes:
    """An extended WebP whose canvas is so large (24 bits a side)."""
    body = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + (width - 1).to_bytes(3, "little")
    body += (height - 1).to_bytes(3, "little")
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def animated(kind: str, frames: int) -> bytes:
    shades = [Image.new("L", (16, 16), number % 256) for number in range(frames)]
    return saved(shades[0], kind, save_all=True, append_images=shades[1:])


def refused_images() -> dict[str, bytes]:
    """None of these is a picture that can be served."""
    picture = Image.effect_noise((300, 300), 50).convert("RGB")
    whole = {kind: saved(picture, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}
    found = {f"truncated {kind}": data[: len(data) // 2] for kind, data in whole.items()}
    found |= {f"only the head of {kind}": data[:30] for kind, data in whole.items()}
    return found | {
        "nothing": b"",
        "one byte": b"\0",
        "zeros": bytes(1000),
        "PNG of 50,000 x 50,000": png_claiming(50_000, 50_000, rows=bytes(100_000)),
        "PNG of 2^31 - 1": png_claiming(2**31 - 1, 2**31 - 1),
        "PNG of 100 megapixels": png_claiming(10_000, 10_000),
        "PNG of 1 x 50,000": png_claiming(1, 50_000, rows=bytes(100_000)),
        "PNG of 50,000 x 1": png_claiming(50_000, 1, rows=bytes(50_001)),
        "PNG of nothing": png_claiming(0, 0),
        "PNG without pixels": png_claiming(9_000, 9_000),
        "PNG with a comment of 100 MB": png_text_bomb(),
        "GIF of 65,535 x 65,535": gif_claiming(65_535, 65_535),
        "TIFF of 50,000 x 50,000": tiff_claiming(50_000, 50_000),
        "TIFF without pixels": tiff_claiming(9_000, 9_000),
        "BMP of 50,000 x 50,000": bmp_claiming(50_000, 50_000),
        "BMP of -2^31": bmp_claiming(-(2**31), -(2**31)),
        "BMP without pixels": bmp_claiming(9_000, 9_000),
        "WebP of 16,384 x 16,384": webp_claiming(16_384, 16_384),
        "a PDF": b"%PDF-1.4\n1 0 obj<<>>endobj",
        "PostScript, which Pillow would hand to Ghostscript": saved(picture, "EPS"),
        "an ICO": saved(picture.resize((16, 16)), "ICO"),
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:1/"/></svg>',
        "an address": b"http://127.0.0.1:1/picture.png",
        "a path": b"/etc/passwd",
        "a page": b"<!doctype html><html></html>",
        "a gzip file": b"\x1f\x8b\x08\0\0\0\0\0",
    }


def taken_images() -> dict[str, bytes]:
    """Odd, and right."""
    picture = Image.new("RGB", (40, 30), "blue")
    deep = Image.new("I;16", (40, 30), 40_000)
    odd = {f"{mode} as {kind}": saved(picture.convert(mode), kind) for mode, kind in _MODES}
    exif = Image.Exif()
    exif[0x0112] = 300  # no such orientation
    return odd | {
        "16 bits as PNG": saved(deep, "PNG"),
        "16 bits as TIFF": saved(deep, "TIFF"),
        "palette with transparency": saved(picture.convert("P"), "PNG", transparency=0),
        "an unknown orientation": saved(picture, "JPEG", exif=exif),
        "broken EXIF": saved(picture, "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 40),
        "GIF on a canvas of nothing": gif_claiming(0, 0),
        "GIF of 3,000 frames": animated("GIF", 3_000),
        "WebP of 300 frames": animated("WEBP", 300),
        "TIFF of 300 pages": animated("TIFF", 300),
        "what a phone calls a JPEG": saved(picture, "MPO", save_all=True, append_images=[picture]),
        "PNG of 80 megapixels": png_claiming(8_000, 10_000, rows=bytes(8_001 * 10_000)),
    }


_MODES = (
    ("1", "PNG"),
    ("L", "JPEG"),
    ("LA", "PNG"),
    ("P", "GIF"),
    ("RGBA", "WEBP"),
    ("CMYK", "JPEG"),
    ("CMYK", "TIFF"),
    ("YCbCr", "TIFF"),
    ("LAB", "TIFF"),
    ("F", "TIFF"),
    ("I", "TIFF"),
)


def wav(*, rate: int = 16_000, channels: int = 1, bits: int = 16, samples: bytes = bytes(3200), told: int = 0) -> bytes:
    """A WAV file whose head says this; `told` is what it claims to hold, in bytes."""
    kind = 3 if bits == 32 else 1
    step = min(channels * bits // 8, 65_535)
    head = struct.pack("<HHIIHH", kind, channels, rate, (rate * step) & 0xFFFFFFFF, step, bits)
    size = told or len(samples)
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", size) + samples
    return b"RIFF" + struct.pack("<I", (size + 36) & 0xFFFFFFFF) + body


def flac_of(seconds: int, rate: int = 8_000) -> bytes:
    """Silence, some thousand times smaller than what it holds."""
    import numpy
    import soundfile

    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", samplerate=rate, channels=1, format="FLAC") as file:
        quiet = numpy.zeros(600 * rate, dtype="int16")
        for _ in range(seconds // 600):
            file.write(quiet)
    return out.getvalue()


def refused_sounds() -> dict[str, bytes]:
    return {
        "nothing": b"",
        "zeros": bytes(1000),
        "a head": wav()[:30],
        "no samples": wav(samples=b""),
        "1 Hz": wav(rate=1, samples=bytes(100_000)),
        "0 Hz": wav(rate=0),
        "2 GHz": wav(rate=2**31 - 1),
        "4 GHz": wav(rate=2**32 - 1),
        "no channels": wav(channels=0),
        "65,535 channels": wav(channels=65_535),
        "no numbers": wav(bits=32, samples=struct.pack("<f", float("nan")) * 800),
        "infinite": wav(bits=32, samples=struct.pack("<f", float("inf")) * 800),
        "four hours": flac_of(4 * 3600),
        "a picture": saved(Image.new("RGB", (8, 8)), "PNG"),
        "an address": b"http://127.0.0.1:1/sound.wav",
        "a playlist": b"#EXTM3U\nhttp://127.0.0.1:1/sound.wav\n",
    }


def video_of(width: int, height: int, *, seconds: int = 1) -> bytes:
    """A black MKV of one frame of a size and, when it lasts longer, a second one at its end."""
    import av
    import numpy

    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        for at in (0, seconds):
            frame = av.VideoFrame.from_ndarray(numpy.zeros((height * 3 // 2, width), "uint8"), format="yuvj420p")
            frame.pts = at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()
