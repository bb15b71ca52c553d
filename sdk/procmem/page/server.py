"""Opens the port, on the loopback address, and serves the page until it is stopped."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import uvicorn

from procmem.embedder import Embedder
from procmem.errors import InputError
from procmem.memory import VisualMemory
from procmem.page.desk import Desk
from procmem.page.guard import Guard
from procmem.page.messages import MAX_MESSAGE_BYTES
from procmem.page.routes import make_routes

HOST = "127.0.0.1"

_TOKEN_BYTES = 32
_CONNECTIONS = 64  # open at once; more are answered 503
_HEADER_BYTES = 16 * 2**10


class PageServer:
    """A page over a memory, ready to be served.

    Args:
        memory: open for writing; stays open afterwards.
        embedder: that the memory uses.
        port: to listen on; 0 for a free one.

    Attributes:
        url: the link to open; it holds this launch's token, so whoever has it has the memory.
        token: the secret in it.
        port: that the server listens on.

    Raises:
        InputError: the port is out of range or taken.
    """

    def __init__(self, memory: VisualMemory, embedder: Embedder, *, port: int = 0) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 2**16:
            raise InputError(f"port is {port!r}, wanted a whole number from 0 to 65535")
        self._socket = _listen(port)
        self.port: int = self._socket.getsockname()[1]
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        self.url = f"http://{HOST}:{self.port}/{self.token}/"
        guard = Guard(make_routes(Desk(memory, embedder)), token=self.token, port=self.port)
        config = uvicorn.Config(
            guard,
            log_level="warning",
            access_log=False,  # every line would hold the token
            lifespan="off",
            http="h11",
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,  # frames are compressed already
            limit_concurrency=_CONNECTIONS,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_graceful_shutdown=2,
            proxy_headers=False,
            server_header=False,
        )
        self._server = _Server(config)

    def serve(self, *, ready: Callable[[], None] | None = None) -> None:
        """Serves until `stop` is called, or until Ctrl-C if this is the main thread.

        Args:
            ready: called when requests are answered and Ctrl-C is heard.
        """
        self._server.ready = ready
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Ends `serve`; may be called from any thread."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Says when it has started. By then it has set its signal handlers, too."""

    ready: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.ready is not None:
            self.ready()


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen()  # from here on a browser that is early waits instead of being refused
    except OSError as error:
        listening.close()
        raise InputError(
            f"port {port} cannot be opened ({error.strerror}); give another one, or 0 for any"
        ) from error
    return listening
