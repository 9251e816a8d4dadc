"""What `up` writes: every line with the name of the process that said it, coloured on a terminal."""

from __future__ import annotations

import os
from typing import TextIO

_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95)  # ANSI foregrounds that read on light and on dark
OWN = "ml-service"


class Console:
    """Writes whole lines; a reader that went away (`up | head`) is not an error. One thread."""

    def __init__(self, out: TextIO, width: int = len(OWN)) -> None:
        self._out = out
        self._width = width
        self._coloured = out.isatty() and "NO_COLOR" not in os.environ
        self._colours: dict[str, int] = {}

    def say(self, text: str) -> None:
        """The supervisor's own words."""
        for line in text.splitlines():
            self.line(OWN, line)

    def line(self, name: str, text: str) -> None:
        """One line of process `name`."""
        prefix = f"{name:<{self._width}} |"
        if self._coloured:
            colour = 1 if name == OWN else self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        try:
            self._out.write(f"{prefix} {text}\n")
            self._out.flush()
        except (BrokenPipeError, ValueError):
            self._out = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process's life
