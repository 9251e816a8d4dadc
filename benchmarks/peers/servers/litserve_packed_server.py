"""LitServe with a forward that has no padding: the bar, since any user of LitServe can write it."""

from __future__ import annotations

from embedder import Echo, setting
from litserve_server import Api, serve


class PackedApi(Api):
    """As LitServe's, with the packed forward."""

    def setup(self, device: str) -> None:
        """In the worker's process, the only one that needs torch."""
        from packed import Packed

        self.embed = Echo() if setting("ECHO", 0) else Packed()


if __name__ == "__main__":
    serve(PackedApi)
