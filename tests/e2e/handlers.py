"""Handlers that misbehave on purpose, run by real workers."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from worker.handler import Context, DeviceLost, Handler, ItemError, Prepared


class Order(BaseModel):
    """What to do: `ok`, `item-error`, `raise`, `abort`, `hang`, `freeze`, `memory`, `short`, `odd`, `tell`, `hold`,
    `lose-device`; where a `flag` file is named, only while it exists. `journal`: a file that gets a line for each
    run."""

    do: str = "ok"
    n: int = 0
    flag: str = ""
    journal: str = ""


class Moody(Handler[Order, Order]):
    """Obeys each item; the device has memory for batches of two."""

    task = "moody"
    example = [Order()]
    uses_torch = False

    def prepare(self, item: Order, parameters: Any) -> Any:
        """Refuses `refuse` before the device."""
        if item.do == "hang-prepare":
            time.sleep(3600)
        if item.do == "refuse":
            raise ItemError("not this one", pointer="/do")
        if item.do == "nothing":
            return []
        return Prepared(item)

    def predict(self, batch: list[Order]) -> Any:
        """One output an item, unless told otherwise."""
        for order in batch:
            if order.journal:
                with Path(order.journal).open("a") as journal:
                    journal.write(f"{order.n} {len(batch)}\n")
        todo = {order.do for order in batch if not order.flag or Path(order.flag).exists()}
        if "lose-device" in todo:
            raise DeviceLost("told to")
        if "abort" in todo:
            os.abort()
        if "hang" in todo:
            time.sleep(3600)
        if "freeze" in todo:
            ctypes.PyDLL(None).sleep(3600)  # native code that keeps the interpreter to itself
        if "raise" in todo:
            raise ValueError("told to")
        for order in batch:
            while order.do == "hold" and Path(order.flag).exists():
                time.sleep(0.01)
        if "long" in todo:
            time.sleep(5)
        if ("memory" in todo and len(batch) > 2) or "too-big" in todo:
            raise MemoryError("the device is full")
        if "short" in todo:
            return batch[:-1]
        if todo & {"slow", "half"}:
            time.sleep(0.5)
        if "tell" in todo:
            self._tell(batch)
        return [ItemError("told to", code="predict_error") if order.do == "item-error" else order for order in batch]

    def _tell(self, batch: list[Order]) -> None:
        """Of each that is to `tell`, in `n` steps."""
        steps = max(order.n for order in batch)
        for step in range(1, steps + 1):
            time.sleep(0.3)
            for position, order in enumerate(batch):
                if order.do == "tell" and step <= order.n:
                    self.progress(position, step / order.n, f"page {step} of {order.n}")

    def finish(self, outputs: list[Any], item: Order, parameters: Any) -> Any:
        """`odd` is not JSON data."""
        if item.do == "hang-finish":
            time.sleep(3600)
        return object() if item.do == "odd" else outputs[0]


class Quick(Moody):
    """Says that it is: what comes alone is prepared and finished in the device's thread."""

    quick = True


class Twins(Moody):
    """Two at a time, where there are two threads for it."""

    side_by_side = True


class Broken(Moody):
    """Does not load."""

    def load(self, ctx: Any) -> None:
        """Raises."""
        raise OSError("no weights here")


class Large(Moody):
    """Takes `mb` of memory as long as it is loaded, and a second to load."""

    def load(self, ctx: Context) -> None:
        """Every page is touched."""
        if Path(ctx.options.get("broken", "")).is_file():
            raise OSError("no weights here")
        time.sleep(1)
        self.weights = bytearray(b"x" * (ctx.options["mb"] * 1_000_000))

    def unload(self) -> None:
        """Gives it back."""
        del self.weights


class Note(BaseModel):
    """Some text, and whether it is of the kind that kills."""

    text: str
    deadly: bool = False


class Words(BaseModel):
    """A text, as of a text model."""

    text: str = Field(min_length=1)


class Lengths(Handler[Words, Any]):
    """An encoder that is ready at once: a text's embedding is how long its words are."""

    task = "lengths"
    example = [Words(text="hello")]
    uses_torch = False

    def predict(self, batch: list[Words]) -> Any:
        """A number for each word."""
        return [{"embedding": [float(len(word)) for word in words.text.split()]} for words in batch]


class Brittle(Handler[Note, Note]):
    """A deadly note kills the process, as long as the file `flag` is there: taking it away is the bug fix."""

    task = "brittle"
    example = [Note(text="hello")]
    uses_torch = False

    def load(self, ctx: Context) -> None:
        """The file's path is an option in models.yaml."""
        self.flag = Path(ctx.options["flag"])

    def predict(self, batch: list[Note]) -> Any:
        """The same notes."""
        if any(note.deadly for note in batch) and self.flag.exists():
            os.abort()
        return batch


class Threads(Handler[Order, Order]):
    """Tells how many threads a forward would use."""

    task = "threads"
    example = [Order()]

    def predict(self, batch: list[Order]) -> Any:
        """In `n`."""
        import torch

        return [Order(n=torch.get_num_threads()) for _ in batch]


class Quoting(Handler[Note, Note]):
    """Raises in `prepare`, `predict` or `finish`, whichever the note's text begins with, and quotes the note. It may
    raise in all of the ways that chain exceptions."""

    task = "quoting"
    example = [Note(text="hello")]
    uses_torch = False

    def prepare(self, item: Note, parameters: Any) -> Any:
        """Raises, or the note."""
        self._raise("prepare", item)
        return Prepared(item)

    def predict(self, batch: list[Note]) -> Any:
        """Raises, or the same notes, or none."""
        for note in batch:
            self._raise("predict", note)
            if note.text.startswith("memory"):
                raise MemoryError(f"no room for {note}")
        return [] if any(note.text.startswith("none") for note in batch) else batch

    def finish(self, outputs: list[Any], item: Note, parameters: Any) -> Any:
        """Raises, or the note, or what is no JSON data."""
        self._raise("finish", item)
        return {item.text: object()} if item.text.startswith("odd") else outputs[0]

    def _raise(self, where: str, note: Note) -> None:
        if note.text.startswith(where):
            try:
                int(note.text)
            except ValueError:
                raise ExceptionGroup(note.text, [KeyError(note.text)]) from OSError(f"{note.text} is no file")
