"""An endpoint of Vertex AI: one call of `:predict` for each batch.

https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.endpoints/predict
"""

from __future__ import annotations

import threading
from typing import Any

from shared.errors import ConfigError
from worker.handler import Context, ItemError
from worker.providers.faults import PROVIDER_ERROR, broken, refused, unreachable
from worker.providers.provider import CONNECT_S, Ask, ProviderHandler

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class VertexEndpoint(ProviderHandler):
    """Application Default Credentials: GOOGLE_APPLICATION_CREDENTIALS, gcloud's, or the service account of the
    machine."""

    def load(self, ctx: Context) -> None:
        """Raises ConfigError where there are no credentials."""
        super().load(ctx)
        project, location, endpoint = self.name.split("/")
        base = self.options.base_url or f"https://{location}-aiplatform.googleapis.com"
        self._url = f"{base}/v1/projects/{project}/locations/{location}/endpoints/{endpoint}:predict"
        self._local = threading.local()
        self._credentials: Any = None
        if self.options.credentials == "none":
            return
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError

        try:
            self._credentials, _ = google.auth.default(scopes=[_SCOPE])
        except DefaultCredentialsError as error:
            raise ConfigError(
                f"{self.who} needs Google credentials (GOOGLE_APPLICATION_CREDENTIALS): {error}"
            ) from None

    def predict(self, batch: list[Ask]) -> list[Any]:
        """One call. Raises TryLater, ItemError."""
        body: dict[str, Any] = {"instances": [ask.item for ask in batch]}
        if batch[0].parameters:
            body["parameters"] = batch[0].parameters
        self.enter(body)
        answer = self._post(body)
        predictions = answer.get("predictions") if isinstance(answer, dict) else None
        if not isinstance(predictions, list) or len(predictions) != len(batch):
            raise broken(self.who, f"did not give one prediction for each of {len(batch)} instances")
        return [self._output(one) for one in predictions]

    def _output(self, prediction: Any) -> Any:
        try:
            return self.checked(prediction)
        except ItemError as error:
            return error

    def _post(self, body: dict[str, Any]) -> Any:
        from google.auth.exceptions import GoogleAuthError, TransportError
        from requests import RequestException, Timeout

        try:
            answer = self._session().post(self._url, json=body, timeout=(CONNECT_S, self.timeout_s))
        except Timeout as error:
            raise unreachable(self.who, error, timeout=True) from None
        except (RequestException, TransportError) as error:
            raise unreachable(self.who, error, timeout=False) from None
        except GoogleAuthError as error:
            if error.retryable:
                raise unreachable(self.who, error, timeout=False) from None
            raise ItemError(f"{self.who}: no access token: {error}", code=PROVIDER_ERROR) from None
        try:
            data = answer.json()
        except ValueError:
            data = None
        if not answer.ok:
            raise refused(self.who, answer.status_code, _words(data, answer.text), answer.headers)
        return data

    def _session(self) -> Any:
        """One for each thread: requests' are not made for several."""
        if not hasattr(self._local, "session"):
            from google.auth.transport.requests import AuthorizedSession
            from requests import Session

            known = self._credentials
            self._local.session = Session() if known is None else AuthorizedSession(known)  # type: ignore[no-untyped-call]
        return self._local.session


def _words(data: Any, text: str) -> str:
    error = data.get("error") if isinstance(data, dict) else None
    if isinstance(error, dict):
        return f"{error.get('status', '')}: {error.get('message', '')}"[:1000]
    return text[:1000]
