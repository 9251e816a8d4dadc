"""The `ml-service` command (extra `cli`)."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script."""
    try:
        from ml_service_client.cli.commands import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "yaml"):
            raise
        sys.exit(f"ml-service: {error.name} is not installed; run: pip install 'ml-service-client[cli]'")
    app()
