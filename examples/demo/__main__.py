"""`make demo`: start the whole service, ask it by every way, check the answers, draw them, stop it.

Exit code 0 only if every answer was right and everything stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
import tempfile
from operator import mul
from pathlib import Path

import httpx
from rich.console import Console

from examples.demo import ask, material, picture, show
from examples.demo.stack import DemoFailed, running

BURST = 64


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="Show the service at work, from start to stop.")
    parser.add_argument("--port", type=int, default=8001, help="of the API; 0: any free one")
    parser.add_argument("--flower-port", type=int, default=5555, help="0: any free one")
    parser.add_argument("--picture", type=Path, default=Path("demo.png"), help="where to write the picture")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the `finally` that stops the stack
    try:
        with tempfile.TemporaryDirectory(prefix="ml-service-demo-") as folder:
            console.print("[bold]Starting the service[/]: queue, API, one worker, Flower")
            with running(Path(folder), options.port, options.flower_port, console) as urls:
                console.print(f"  API {urls['api_url']}   Flower {urls['flower_url']}\n", highlight=False)
                asyncio.run(_ask_all(urls["api_url"], options.picture, console))
    except DemoFailed as error:
        console.print(f"\n[bold red]The demo failed:[/] {error}", highlight=False, markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; everything is stopped")
        return 130
    console.print(f"[bold green]Every answer was right[/], everything is stopped. The picture: {options.picture}")
    return 0


async def _ask_all(url: str, to: Path, console: Console) -> None:
    photos, texts = material.photographs(), material.SENTENCES
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=BURST)) as client:
        seen = [await ask.wait(client, "cnn", {"image": photo.base64()}) for photo in photos]
        show.photographs(console, photos, seen)
        read = await asyncio.gather(*(ask.poll(client, "bert", {"text": text}) for text in texts))
        similarity = _similarity([answer.output["embedding"] for answer in read])
        show.sentences(console, texts, read, similarity)
        many, took_s = await ask.at_once(client, material.many_texts(BURST))
        show.burst(console, many, took_s)
        alone = await ask.wait(client, "bert", {"text": material.many_texts(BURST)[0]})
    _check_photographs(photos, seen)
    _check_sentences(texts, similarity)
    _check_burst(many, alone)
    caption = f"{len(photos)} photographs, {len(texts)} sentences and {BURST} texts at once, through HTTP and the queue"
    outputs = [answer.output for answer in seen]
    picture.draw(to, photos=photos, outputs=outputs, texts=texts, similarity=similarity, caption=caption)


def _check_photographs(photos: list[material.Photograph], answers: list[ask.Answer]) -> None:
    for photo, answer in zip(photos, answers, strict=True):
        label = answer.output["labels"][0]["label"]
        if not any(word in label for word in photo.right):
            raise DemoFailed(f"cnn took {photo.name} for {label!r}, not for {' or '.join(photo.right)}")


def _check_sentences(texts: list[str], similarity: list[list[float]]) -> None:
    for index, row in enumerate(similarity):
        nearest = max((other for other in range(len(row)) if other != index), key=row.__getitem__)
        if nearest != material.partner(index):
            raise DemoFailed(f"bert finds {texts[nearest]!r} nearest to {texts[index]!r}")


def _check_burst(many: list[ask.Answer], alone: ask.Answer) -> None:
    if max(answer.timing["batch_size"] for answer in many) == 1:
        raise DemoFailed(f"{len(many)} calls at once formed no batch")
    cosine = _similarity([many[0].output["embedding"], alone.output["embedding"]])[0][1]
    if cosine < 0.9999:
        raise DemoFailed(f"a text's embedding in a batch differs from the one alone: cosine {cosine:.6f}")


def _similarity(vectors: list[list[float]]) -> list[list[float]]:
    """Cosine of each pair."""
    lengths = [math.hypot(*vector) for vector in vectors]
    return [
        [sum(map(mul, a, b)) / (lengths[i] * lengths[j]) for j, b in enumerate(vectors)] for i, a in enumerate(vectors)
    ]


if __name__ == "__main__":
    sys.exit(main())
