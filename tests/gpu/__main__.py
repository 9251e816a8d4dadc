"""`python -m tests.gpu`: 0 where a GPU can be used; else 1, and why. What `make gpu` looks at first."""

from __future__ import annotations

import sys

from tests.gpu.at_hand import fault

if __name__ == "__main__":
    sys.exit(f"make gpu: {why}" if (why := fault()) else 0)
