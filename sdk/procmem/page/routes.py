"""The page's addresses: its own files, photos to ask and teach, the items, and forgetting.

Takes requests that `guard.py` let through, gives JSON from `desk.py`. Every error is
`{"error": text}` with a status that says whose it is; a text never holds what was sent.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from procmem.cli.text import report_as_json
from procmem.errors import (
    InputError,
    ItemNotFoundError,
    ProcmemError,
    VaultClosedError,
    VaultFullError,
    VaultLockedError,
    VaultReadOnlyError,
)
from procmem.page.desk import Desk, Selection, selection_of
from procmem.page.live import Live
from procmem.receipt import receipt_text

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

STATIC = Path(__file__).parent / "static"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript")
        for name in ("page", "api", "answers", "live", "stage", "memory", "paint")
    },
}
_STATUS: dict[type[ProcmemError], int] = {
    ItemNotFoundError: 404,
    VaultFullError: 507,
    VaultLockedError: 409,
    VaultReadOnlyError: 409,
    VaultClosedError: 503,
}
_MOST_ITEMS = 500  # of one answer


def make_routes(desk: Desk) -> Starlette:
    """The application behind the guard."""
    api = _Api(desk)
    routes = [
        Route("/api/state", api.state),
        Route("/api/items", api.items),
        Route("/api/map", api.map),
        Route("/api/items/{id:str}/thumbnail", api.thumbnail),
        Route("/api/thumbnails", api.drop_thumbnails, methods=["DELETE"]),
        Route("/api/ask", api.ask, methods=["POST"]),
        Route("/api/teach", api.teach, methods=["POST"]),
        Route("/api/forget", api.forget, methods=["POST"]),
        Route("/api/forget-similar", api.forget_similar, methods=["POST"]),
        WebSocketRoute("/live", Live(desk).serve),
    ]
    files = [Route(path, partial(_file, *_FILES[path]), name=path) for path in _FILES]
    return Starlette(
        routes=[*files, *routes],
        exception_handlers={ProcmemError: _explain, HTTPException: _explain_status},
    )


class _Json(JSONResponse):
    """In ASCII: a label may have halves of characters, of a name that is no UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


class _Api:
    """The endpoints, each a thin door to `Desk`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def state(self, _: Request) -> Response:
        return _Json(await run_in_threadpool(self._desk.state))

    async def items(self, request: Request) -> Response:
        start = _whole(request, "start", 0, least=0, most=2**53)
        limit = _whole(request, "limit", 100, least=1, most=_MOST_ITEMS)
        part = partial(self._desk.items, start=start, limit=limit)
        return _Json(await run_in_threadpool(part))

    async def map(self, _: Request) -> Response:
        return _Json(await run_in_threadpool(self._desk.map))

    async def thumbnail(self, request: Request) -> Response:
        (id_,) = selection_of({"ids": [request.path_params["id"]]})["ids"]
        return Response(self._desk.thumbnail(id_), media_type="image/jpeg")

    async def drop_thumbnails(self, _: Request) -> Response:
        return _Json({"dropped": self._desk.drop_thumbnails()})

    async def ask(self, request: Request) -> Response:
        match = _flag(request, "match")
        ask = partial(self._desk.ask, await request.body(), match=match)
        return _Json(await run_in_threadpool(ask))

    async def teach(self, request: Request) -> Response:
        label, keep = request.query_params.get("label", ""), _flag(request, "keep")
        teach = partial(self._desk.teach, await request.body(), label, keep=keep)
        return _Json(await run_in_threadpool(teach))

    async def forget(self, request: Request) -> Response:
        try:
            document = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise InputError("the request is not JSON") from error
        return await self._erase(request, selection_of(document))

    async def forget_similar(self, request: Request) -> Response:
        pixels = await run_in_threadpool(self._desk.decode, await request.body())
        least = request.query_params.get("min_similarity", "0.9")
        try:
            similarity = float(least)
        except ValueError as error:
            raise InputError(f"min_similarity is {least!r:.60}, wanted a number") from error
        return await self._erase(request, {"similar_to": pixels, "min_similarity": similarity})

    async def _erase(self, request: Request, selection: Selection) -> Response:
        if _flag(request, "plan"):
            return _Json(await run_in_threadpool(self._desk.plan, selection))
        report = await run_in_threadpool(self._desk.forget, selection)
        document = await run_in_threadpool(report_as_json, report)
        # As text, because a receipt is signed to the letter.
        receipt = report.receipt
        document["receipt"] = receipt and await run_in_threadpool(receipt_text, receipt)
        return _Json(document)


async def _file(name: str, media_type: str, _: Request) -> Response:
    return FileResponse(STATIC / name, media_type=media_type)


def _whole(request: Request, name: str, default: int, *, least: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 17 and least <= int(text) <= most):
        raise InputError(f"{name} is {text!r:.60}, wanted a whole number from {least} to {most}")
    return int(text)


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "0")
    if text not in ("0", "1"):
        raise InputError(f"{name} is {text!r:.60}, wanted 0 or 1")
    return text == "1"


async def _explain(_: Request, error: Exception) -> Response:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 400)
    return _Json({"error": str(error)}, status)


async def _explain_status(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _Json({"error": error.detail}, error.status_code, error.headers)
