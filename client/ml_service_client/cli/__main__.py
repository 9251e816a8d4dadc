"""`python -m ml_service_client.cli`: the same as `ml-service`."""

from __future__ import annotations

from ml_service_client.cli import main

if __name__ == "__main__":
    main()
