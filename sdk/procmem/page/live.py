"""One browser's frames over one WebSocket: the newest is answered, older ones are dropped.

Takes messages from `messages.py`, gives them to `desk.py`. Questions go through a `FrameStream`,
so that overload sheds frames instead of letting answers fall behind what is to be seen. What is
taught is never shed silently: it is done in order, and more than a few at once are refused.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from procmem.errors import InputError, ProcmemError
from procmem.page.desk import Desk, Mark
from procmem.page.messages import FrameMessage, read_message
from procmem.stream import FrameStream, StreamResult

MAX_CONNECTIONS = 16
"""Browsers at once; more are told to come again."""

_LESSONS_AT_ONCE = 4
_BAD_MESSAGES = 20  # after so many a connection is closed
_TRY_AGAIN, _MISBEHAVED = 1013, 1008


class Live:
    """The WebSocket endpoint of all browsers."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._connections = 0

    async def serve(self, socket: WebSocket) -> None:
        """Serves one browser until it goes."""
        if self._connections >= MAX_CONNECTIONS:
            await socket.accept()
            await socket.close(_TRY_AGAIN, "too many browsers at once")
            return
        self._connections += 1
        try:
            await _Connection(socket, self._desk).run()
        finally:
            self._connections -= 1


class _Connection:
    """One browser: a task that receives, one that sends answers, one that teaches."""

    def __init__(self, socket: WebSocket, desk: Desk) -> None:
        self._socket, self._desk = socket, desk
        self._mark: Mark | None = None
        self._lessons: asyncio.Queue[FrameMessage] = asyncio.Queue(_LESSONS_AT_ONCE)
        self._sending = asyncio.Lock()
        self._bad = 0

    async def run(self) -> None:
        await self._socket.accept()
        async with FrameStream(self._answer) as stream:
            tasks = [
                asyncio.create_task(work)
                for work in (self._receive(stream), self._send_answers(stream), self._teach())
            ]
            done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        for task in done:
            with suppress(WebSocketDisconnect):
                task.result()

    def _answer(self, message: FrameMessage) -> dict[str, Any]:
        """On the stream's thread: what a frame shows."""
        mark = self._mark if message.find else None
        return {
            "kind": "answer",
            "frame": message.frame,
            **self._desk.ask(message.pictures[0], mark=mark, match=message.match),
        }

    async def _receive(self, stream: FrameStream[FrameMessage, dict[str, Any]]) -> None:
        while True:
            received = await self._socket.receive()
            if received["type"] != "websocket.receive":
                return
            try:
                await self._take(received.get("bytes"), stream)
            except ProcmemError as error:
                await self._send({"kind": "error", "error": str(error)})
                self._bad += 1
            if self._bad >= _BAD_MESSAGES:
                await self._socket.close(_MISBEHAVED, "too many messages that cannot be read")
                return

    async def _take(
        self, data: bytes | None, stream: FrameStream[FrameMessage, dict[str, Any]]
    ) -> None:
        if data is None:
            raise InputError("a message of text, wanted a binary one")
        message = read_message(data)
        if message.do == "ask":
            stream.offer(message)
        elif message.do == "mark":
            parts = message.pictures
            self._mark = await run_in_threadpool(Mark, *parts) if parts else None
            await self._send({"kind": "marked", "frame": message.frame, "marked": bool(parts)})
        elif self._lessons.full():
            refused = "too many pictures at once; this one was not taught"
            await self._send({"kind": "error", "frame": message.frame, "error": refused})
        else:
            self._lessons.put_nowait(message)

    async def _send_answers(self, stream: FrameStream[FrameMessage, dict[str, Any]]) -> None:
        async for result in stream:
            await self._send(_document(result))

    async def _teach(self) -> None:
        while True:
            message = await self._lessons.get()
            (picture,) = message.pictures
            try:
                taught = await run_in_threadpool(
                    self._desk.teach, picture, message.label, keep=message.keep
                )
            except ProcmemError as error:
                await self._send({"kind": "error", "frame": message.frame, "error": str(error)})
            else:
                await self._send({"kind": "taught", "frame": message.frame, **taught})

    async def _send(self, document: dict[str, Any]) -> None:
        async with self._sending:
            if self._socket.application_state is WebSocketState.CONNECTED:
                await self._socket.send_text(json.dumps(document, separators=(",", ":")))


def _document(result: StreamResult[dict[str, Any]]) -> dict[str, Any]:
    timing = {
        "dropped": result.dropped,
        "waited_ms": round(1000 * result.waited_seconds, 2),
        "worked_ms": round(1000 * result.worked_seconds, 2),
    }
    if result.value is None:
        return {"kind": "error", "error": str(result.error), **timing}
    return {**result.value, **timing}
