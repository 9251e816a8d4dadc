"""What a backend installs to talk to ml-service; `ml_service_client.cli` is its command line."""

from importlib.metadata import version

__version__ = version("ml-service-client")
