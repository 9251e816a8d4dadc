"""`/console` and `/docs`: pages for people, as files of this package. They need no key; what they ask for does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_FILES = Path(__file__).parents[1] / "console"

# Nothing from elsewhere, nothing inline, in nobody's frame. (blob, data: what was dropped, or what a model has made.)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again, and answered 304
}

router = APIRouter(include_in_schema=False)


class Files(StaticFiles):
    """With the headers of a page that trusts nobody."""

    def __init__(self) -> None:
        super().__init__(directory=_FILES, html=True)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Raises HTTPException, as StaticFiles."""
        answer = await super().get_response(path, scope)
        answer.headers.update(_HEADERS)
        return answer


def paths() -> frozenset[str]:
    """All that is served here."""
    files = (file.relative_to(_FILES).as_posix() for file in _FILES.rglob("*") if file.is_file())
    return frozenset({"/console", "/console/", "/docs", "/redoc", *(f"/console/{name}" for name in files)})


@router.api_route("/console", methods=["GET", "HEAD"])
async def console() -> Any:
    """To the folder, from which the page's own addresses count."""
    return RedirectResponse("console/", 308)


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs() -> Any:
    """OpenAPI, to read and to try. Works offline."""
    return FileResponse(_FILES / "docs.html", headers=_HEADERS)


@router.api_route("/redoc", methods=["GET", "HEAD"])
async def redoc() -> Any:
    """Where other services of this kind have one more."""
    return RedirectResponse("docs", 308)
