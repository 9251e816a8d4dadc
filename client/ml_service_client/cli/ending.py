"""How a command ends: one place from what went wrong to what is said and the exit code."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import httpx
import typer
from typer.core import TyperGroup

from ml_service_client.cli.terminal import BROKEN_PIPE, ERROR, FAILED, INTERRUPTED, TIMEOUT, USAGE, note
from ml_service_client.errors import JobError, MLServiceError
from ml_service_client.problems import Unauthorized, WaitEnded


class Failure(Exception):
    """Something that a command itself found wrong."""

    def __init__(self, message: str, exit_code: int = ERROR) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Group(TyperGroup):
    """All commands."""

    def invoke(self, ctx: Any) -> Any:
        """As typer's, with our endings."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # Whoever read has had enough. What is left in the buffer must not complain at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Failure as error:
            _tell(str(error), {"code": "error", "detail": str(error)})
            raise typer.Exit(error.exit_code) from None
        except MLServiceError as error:
            _tell_service(error)
            raise typer.Exit(exit_code(error)) from None
        except OSError as error:  # of a file that it was told of
            told = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            _tell(told, {"code": "error", "detail": told})
            raise typer.Exit(ERROR) from None
        except httpx.TransportError as error:
            told = f"no service answers at {_where(error)}: {str(error) or type(error).__name__}"
            _tell(told, {"code": "unreachable", "detail": told})
            raise typer.Exit(ERROR) from None


def exit_code(error: MLServiceError) -> int:
    """A job that ended badly is 3, a wait that is over 4, every refusal 1."""
    if isinstance(error, WaitEnded):
        return TIMEOUT
    return FAILED if isinstance(error, JobError) and error.job else ERROR


def usage(message: str) -> Failure:
    """The command was called wrongly."""
    return Failure(message, USAGE)


def _tell_service(error: MLServiceError) -> None:
    hint = "; set ML_SERVICE_API_KEY" if isinstance(error, Unauthorized) else ""
    faults = [{"pointer": fault.pointer, "code": fault.code, "message": fault.message} for fault in error.errors]
    told: dict[str, Any] = {"code": error.code, "detail": error.detail, "errors": faults, "job": error.job}
    told |= {"status": error.status, "request_id": error.request_id}
    where = f" (job {error.job})" if error.job else ""
    more = [fault for fault in faults if fault["pointer"] or fault["message"] != error.detail]
    lines = [f"{fault['pointer'] or '/'}: {fault['message']}" for fault in more]
    _tell(f"{error.detail}{where}{hint}", told, lines)


def _tell(message: str, as_json: dict[str, Any], lines: list[str] | None = None) -> None:
    if "--json" in sys.argv:
        sys.stderr.write(json.dumps({"error": as_json}, ensure_ascii=False) + "\n")
        return
    for line in lines or ():
        note(line, "red")
    note(f"ml-service: {message}", "red")


def _where(error: httpx.TransportError) -> str:
    try:
        url = error.request.url
    except RuntimeError:  # none
        return "this address"
    return f"{url.scheme}://{url.netloc.decode()}"
