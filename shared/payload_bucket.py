"""S3, or what speaks its protocol, as the payload store, through obstore (https://developmentseed.org/obstore/).

Credentials are found as Amazon's own tools find them in a container or on a machine: AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, a web identity, a role of the container or of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigError, PayloadsUnavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

# A try that fails quickly is made again by whoever asked; one that hangs must not hold a thread for minutes.
_CLIENT: ClientConfig = {"connect_timeout": "3s", "timeout": "60s"}
_RETRY: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
}


class Bucket:
    """See Objects."""

    chunk_bytes = 4_000_000

    def __init__(self, bucket: str, prefix: str, endpoint: str) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError:
            raise ConfigError(
                "ML_PAYLOAD_STORE: s3:// needs the package obstore: pip install 'ml-service[s3]'"
            ) from None
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        config: Any = {"region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"}
        if endpoint:
            config["endpoint"] = endpoint
        client: ClientConfig = {**_CLIENT, "allow_http": endpoint.startswith("http://")}
        try:
            self._store = S3Store(
                bucket, prefix=prefix or None, config=config, client_options=client, retry_config=_RETRY
            )
        except Exception as error:
            raise ConfigError(f"ML_PAYLOAD_STORE: S3 cannot be used: {type(error).__name__}") from None
        self._obstore: Any = obstore
        self._failed = obstore.exceptions.BaseError

    def check(self) -> None:
        """Writes, reads and deletes a small object: what is not allowed is found now."""
        from obstore import exceptions

        name = f"probe-{os.getpid()}-{os.urandom(8).hex()}"
        try:
            self._obstore.put(self._store, name, b"", use_multipart=False)
            self._obstore.get(self._store, name).bytes()
            self._obstore.delete(self._store, [name])
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            raise ConfigError("S3 does not let these credentials write, read and delete there") from None
        except FileNotFoundError:
            raise ConfigError("there is no such bucket") from None
        except self._failed as error:
            raise _away(error) from None

    def put(self, name: str, data: bytes, content_type: str) -> None:
        """See Objects."""
        try:
            self._obstore.put(
                self._store, self._key(name), data, attributes={"Content-Type": content_type}, use_multipart=False
            )
        except (self._failed, OSError) as error:
            raise _away(error) from None

    def get(self, name: str) -> bytes | None:
        """See Objects."""
        try:
            return bytes(self._obstore.get(self._store, self._key(name)).bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise _away(error) from None
            return None
        except self._failed as error:
            raise _away(error) from None

    def size(self, name: str) -> int | None:
        """See Objects."""
        try:
            return int(self._obstore.head(self._store, self._key(name))["size"])
        except FileNotFoundError:
            return None
        except self._failed as error:
            raise _away(error) from None

    def delete(self, names: Sequence[str]) -> None:
        """See Objects."""
        try:
            self._obstore.delete(self._store, [self._key(name) for name in names])
        except (self._failed, OSError) as error:
            raise _away(error) from None

    def signed_url(self, name: str, seconds: float) -> str | None:
        """See Objects."""
        try:
            found: str = self._obstore.sign(self._store, "GET", self._key(name), timedelta(seconds=seconds))
        except self._failed as error:
            raise _away(error) from None
        return found

    def _key(self, name: str) -> str:
        return f"{name[1:3]}/{name}"  # spread over prefixes, by which S3 divides its load


def _away(error: Exception) -> PayloadsUnavailable:
    """Its words may quote a URL; its type does not."""
    return PayloadsUnavailable(f"S3, which is the payload store, does not answer or refuses ({type(error).__name__})")
