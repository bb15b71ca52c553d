"""Who may ask the page's server, and how much: everything that is checked before a route runs.

An ASGI application around another. It lets a request through if

* its path begins with the launch's token, so that a second tab, another user of the machine or a
  foreign page without it gets nothing; there is no cookie that a browser would add by itself;
* its Host is the loopback address that the server listens on, which ends DNS rebinding;
* its Origin, if it has one, is the page's own; whatever writes, and WebSockets, must have one;
* its body is no longer than allowed and arrives in time.

Every answer carries headers that forbid the page anything but this server. An error of ours leaves
one line in the log, without what was asked, and never a traceback.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

_log = logging.getLogger(__name__)

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 64 * 2**20
"""Largest photo that is taken, bytes."""

BODIES_AT_ONCE = 4
"""Requests with a body that are worked on together; more are told to come again."""

_BODY_SECONDS = 30.0  # for a whole body; a sender that trickles holds its place no longer
_READS = ("GET", "HEAD")
_OWN_SITES = (None, "same-origin", "none")  # "none": typed, or from outside of the browser
_POLICIES = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",  # the address holds the token
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
}


class Guard:
    """The application, for those who hold the token.

    Args:
        application: what is guarded; sees paths without the token.
        token: of this launch, characters that need no escape in an address.
        port: that the server listens on.
        body_seconds: until a body must have arrived.
    """

    def __init__(
        self,
        application: Application,
        *,
        token: str,
        port: int,
        body_seconds: float = _BODY_SECONDS,
    ) -> None:
        self._application, self._token = application, token.encode("ascii")
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        self._body_seconds = body_seconds
        self._bodies = 0
        sockets = " ".join(f"ws://{host}" for host in sorted(self._hosts))
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
            f"media-src 'self' blob: mediastream:; connect-src 'self' {sockets}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        policies = {"content-security-policy": policy, **_POLICIES}
        self._headers = [(name.encode(), value.encode()) for name, value in policies.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it."""
        if scope["type"] not in ("http", "websocket"):
            raise RuntimeError(f"a scope of type {scope['type']!r}, wanted http or websocket")
        reason = self._refusal(scope)
        if reason is not None:
            await self._refuse(scope, send, 403, reason)
            return
        path = scope["path"][1 + len(self._token) :]
        if not path:
            # Relative addresses of the page need the slash.
            await self._reply(send, 308, b"", [(b"location", b"/" + self._token + b"/")])
            return
        inner = {**scope, "path": path, "raw_path": path.encode("utf-8", "replace")}
        if scope["type"] == "websocket":
            await self._socket(inner, receive, send)
        else:
            await self._request(inner, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        """Why a request may not be answered; None if it may."""
        first = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
        if not hmac.compare_digest(first.encode("utf-8", "surrogatepass"), self._token):
            return "the address lacks this launch's token; open the link that procmem printed"
        headers = scope["headers"]
        hosts, origins = _values(headers, b"host"), _values(headers, b"origin")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return "the Host header is not this server's; open the link that procmem printed"
        own = [f"http://{hosts[0]}"]
        writes = scope["type"] == "websocket" or scope["method"] not in _READS
        if origins not in ([own] if writes else [own, []]):
            return "the Origin header is not this page's; only the page itself may ask this"
        sites = _values(headers, b"sec-fetch-site")
        if len(sites) > 1 or (sites[0] if sites else None) not in _OWN_SITES:
            return "another site asked for this; open the link that procmem printed"
        return None

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        lengths = _values(scope["headers"], b"content-length")
        if any(not length.isdecimal() or int(length) > MAX_BODY_BYTES for length in lengths):
            await self._refuse(scope, send, 413, _too_large())
            return
        with_body = scope["method"] not in _READS
        if with_body and self._bodies >= BODIES_AT_ONCE:
            await self._refuse(scope, send, 503, "too many photos at once; send it again")
            return
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        self._bodies += with_body
        try:
            body = await asyncio.wait_for(_read(receive), self._body_seconds) if with_body else b""
            if body is None:
                return  # the sender has gone
            await self._application(scope, _replay(body, receive), answer)
        except _TooLargeError:
            await self._refuse(scope, send, 413, _too_large())
        except asyncio.TimeoutError:
            await self._refuse(scope, send, 408, "the photo did not arrive in time; send it again")
        except Exception as error:
            _log.error("a request for the page failed: %s", type(error).__name__)
            if not begun:
                await self._refuse(scope, send, 500, "this failed; see the log of procmem")
        finally:
            self._bodies -= with_body

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        closed = False

        async def answer(message: Message) -> None:
            nonlocal closed
            closed = closed or message["type"] == "websocket.close"
            await send(message)

        try:
            await self._application(scope, receive, answer)
        except Exception as error:
            _log.error("a connection of the page failed: %s", type(error).__name__)
            if not closed:
                await send({"type": "websocket.close", "code": 1011})

    async def _refuse(self, scope: Scope, send: Send, status: int, reason: str) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before accepting: 403
            return
        body = json.dumps({"error": reason}).encode()
        await self._reply(send, status, body, [(b"content-type", b"application/json")])

    async def _reply(
        self, send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]
    ) -> None:
        all_headers = [*headers, (b"content-length", str(len(body)).encode()), *self._headers]
        await send({"type": "http.response.start", "status": status, "headers": all_headers})
        await send({"type": "http.response.body", "body": body})


class _TooLargeError(Exception):
    pass


def _too_large() -> str:
    return f"the photo has more than {MAX_BODY_BYTES // 2**20} MiB; send a smaller one"


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None if the sender has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _TooLargeError
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, and then what follows it."""
    given = False

    async def next_message() -> Message:
        nonlocal given, body
        if given:
            return await receive()
        given, content, body = True, body, b""
        return {"type": "http.request", "body": content, "more_body": False}

    return next_message


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]
