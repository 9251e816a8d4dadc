"""An endpoint of Amazon SageMaker: one call of `invoke_endpoint` for each item.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

from __future__ import annotations

import json
from typing import Any

from shared.errors import ConfigError
from worker.handler import Context, ItemError
from worker.providers.bodies import answer_of, body_of
from worker.providers.faults import PROVIDER_ERROR, broken, refused, unreachable
from worker.providers.provider import CONNECT_S, Ask, ProviderHandler

_THROTTLED = frozenset(("ThrottlingException", "Throttling", "TooManyRequestsException", "ModelNotReadyException"))


class SageMakerEndpoint(ProviderHandler):
    """Credentials as boto3 finds them: the environment, a profile, the role of the machine."""

    max_size = 1

    def load(self, ctx: Context) -> None:
        """Raises ConfigError where there are no credentials, or no region."""
        super().load(ctx)
        import boto3
        from botocore.config import Config
        from botocore.exceptions import NoRegionError

        session = boto3.Session(region_name=self.options.region)
        if session.get_credentials() is None:
            raise ConfigError(f"{self.who} needs AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=CONNECT_S,
            read_timeout=self.timeout_s,
            max_pool_connections=self.concurrency,
        )
        try:
            self.client: Any = session.client("sagemaker-runtime", endpoint_url=self.options.base_url, config=config)
        except NoRegionError:
            raise ConfigError(f"{self.who} needs a region: `region` of the version, or AWS_DEFAULT_REGION") from None

    def unload(self) -> None:
        """Closes the connections."""
        super().unload()
        self.client.close()

    def predict(self, batch: list[Ask]) -> list[Any]:
        """One call. Raises TryLater, ItemError."""
        (ask,) = batch
        body = json.dumps(body_of(self.options.body, ask), ensure_ascii=False).encode()
        self.enter(ask.item)
        raw = self._invoke(body)
        try:
            answer = json.loads(raw)
        except ValueError:
            raise broken(self.who, "gave what is no JSON") from None
        return [self.checked(answer_of(self.options.body, answer))]

    def _invoke(self, body: bytes) -> bytes:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectTimeoutError,
            CredentialRetrievalError,
            NoCredentialsError,
            ParamValidationError,
            ReadTimeoutError,
        )
        from urllib3.exceptions import HTTPError

        try:
            answer = self.client.invoke_endpoint(
                EndpointName=self.name, Body=body, ContentType="application/json", Accept="application/json"
            )
            read: bytes = answer["Body"].read()
        except ClientError as error:
            raise self._refused(error.response) from None
        except (ReadTimeoutError, ConnectTimeoutError) as error:
            raise unreachable(self.who, error, timeout=True) from None
        except (CredentialRetrievalError, NoCredentialsError, ParamValidationError) as error:
            raise ItemError(f"{self.who}: {type(error).__name__}", code=PROVIDER_ERROR) from None
        except (BotoCoreError, HTTPError) as error:
            raise unreachable(self.who, error, timeout=False) from None
        return read

    def _refused(self, response: Any) -> Exception:
        code, told = response["Error"].get("Code", ""), response["Error"].get("Message", "")
        about = response["ResponseMetadata"]
        status = about["HTTPStatusCode"]
        if code in _THROTTLED:
            status = 429
        elif code == "ModelError":  # what the container itself has answered
            status = response.get("OriginalStatusCode", status)
            told = response.get("OriginalMessage", told)
        elif status == 400:  # of our own making: no such endpoint, a body too large for it
            status = 404
        return refused(self.who, status, f"{code}: {told}"[:1000], about.get("HTTPHeaders", {}))
