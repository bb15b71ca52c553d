"""The page's server: who gets in, what hostile requests do, what it holds, and what it lets go."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.tiny_model import write_tiny_model

import procmem
from procmem.page.guard import MAX_BODY_BYTES
from procmem.page.live import MAX_CONNECTIONS
from procmem.page.messages import read_message
from procmem.page.server import PageServer

connect_ = pytest.importorskip("websockets.sync.client").connect


def jpeg(color: tuple[int, int, int], *, seed: int = 0, side: int = 96) -> bytes:
    noise = np.random.default_rng(seed).integers(-20, 20, (side, side, 3))
    pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


RED, BLUE = (210, 40, 30), (30, 60, 210)


@dataclass
class Running:
    """A server in a thread, and how to ask it."""

    server: PageServer
    memory: procmem.VisualMemory

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and JSON of one request, sent as the page would."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        own = {"Origin": self.origin} if method not in ("GET", "HEAD") else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, f"/{self.server.token}{path}", body, {**own, **named})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(data) if is_json else data

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def connect(self, **options: Any) -> Any:
        address = self.server.url.replace("http", "ws") + "live"
        return connect_(address, **{"origin": self.origin, "compression": None, **options})


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Running]:
    model = write_tiny_model(folder)
    with (
        procmem.Embedder(model) as embedder,
        procmem.VisualMemory(folder / "vault", embedder=embedder, **options) as memory,
    ):
        server = PageServer(memory, embedder)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield Running(server, memory)
        finally:
            server.stop()
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as page:
        yield page


def message(header: dict[str, Any], *parts: bytes) -> bytes:
    text = json.dumps({"parts": [len(part) for part in parts], **header}).encode()
    return len(text).to_bytes(4, "little") + text + b"".join(parts)


def hear(connection: Any, kind: str) -> dict[str, Any]:
    """The next message of a kind."""
    while True:
        heard: dict[str, Any] = json.loads(connection.recv(timeout=30))
        if heard["kind"] == kind:
            return heard


# ---- who gets in


def raw(page: Running, request: bytes) -> bytes:
    """The first line of the answer to exactly these bytes."""
    with socket.create_connection(("127.0.0.1", page.server.port), 10) as connection:
        connection.sendall(request)
        with suppress(OSError):
            return connection.recv(4096).split(b"\r\n")[0]
    return b""


def refused(page: Running, head: str, method: str = "GET") -> bool:
    line = (
        f"{method} /{page.server.token}/api/state HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n"
    )
    return b" 403 " in raw(page, line.encode())


def test_the_page_itself_is_let_in(shared):
    port = shared.server.port
    assert not refused(shared, f"Host: 127.0.0.1:{port}")
    assert not refused(shared, f"Host: localhost:{port}")
    assert not refused(shared, f"Host: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "head",
    [
        "Host: evil.example",
        "Host: evil.example:{port}",
        "Host: 127.0.0.1",
        "Host: 127.0.0.1:{port}.evil.example",
        "Host: 127.0.0.1:{port}\r\nHost: 127.0.0.1:{port}",
        "Host: 127.0.0.1:{port}\r\nOrigin: http://evil.example",
        "Host: 127.0.0.1:{port}\r\nOrigin: null",
        "Host: 127.0.0.1:{port}\r\nOrigin: http://localhost:{port}",
        "Host: 127.0.0.1:{port}\r\nOrigin: https://127.0.0.1:{port}",
        "Host: 127.0.0.1:{port}\r\nSec-Fetch-Site: cross-site",
        "Host: 127.0.0.1:{port}\r\nSec-Fetch-Site: same-site",
        "X: y",
    ],
)
def test_foreign_hosts_and_origins_are_refused(shared, head):
    head = head.replace("{port}", str(shared.server.port))
    answer = refused(shared, head)
    # A missing or doubled Host is refused by the HTTP parser already.
    first = raw(shared, f"GET / HTTP/1.1\r\n{head}\r\n\r\n".encode())
    assert answer or b" 400 " in first


def test_what_writes_needs_the_origin_of_the_page(shared):
    host = f"Host: 127.0.0.1:{shared.server.port}"
    assert refused(shared, host, method="POST")
    assert refused(shared, host, method="DELETE")
    for origin in (None, "http://evil.example", "null"):
        with pytest.raises(Exception, match="403"):
            shared.connect(origin=origin)


@pytest.mark.parametrize(
    "path", ["/", "/api/state", "/live", "/page.js", "//", "/..", "/%00", "/x/"]
)
def test_without_the_token_there_is_nothing(shared, path):
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{shared.server.port}\r\n\r\n"
    assert b" 403 " in raw(shared, request.encode())


def test_tokens_are_long_and_of_one_launch(shared, page):
    assert len(shared.server.token) >= 43  # 32 bytes
    assert shared.server.token != page.server.token
    near = shared.server.token[:-1] + ("A" if shared.server.token[-1] != "A" else "B")
    request = f"GET /{near}/ HTTP/1.1\r\nHost: 127.0.0.1:{shared.server.port}\r\n\r\n"
    assert b" 403 " in raw(shared, request.encode())


def test_only_the_loopback_address_is_listened_on(shared):
    assert shared.server._socket.getsockname()[0] == "127.0.0.1"


def test_every_answer_forbids_what_the_page_does_not_need(shared):
    for path in ("/", "/api/state", "/nothing"):
        connection = http.client.HTTPConnection("127.0.0.1", shared.server.port, timeout=10)
        connection.request("GET", f"/{shared.server.token}{path}")
        headers = connection.getresponse().headers
        connection.close()
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
        assert "set-cookie" not in headers


def test_the_pages_own_files_name_no_other_place():
    folder = Path(procmem.__file__).parent / "page" / "static"
    for file in folder.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not a place
        assert "http:" not in text
        assert "https:" not in text
        assert "innerHTML" not in text


# ---- teaching, asking, forgetting


def test_what_is_taught_over_the_socket_is_answered_and_forgotten(page):
    with page.connect() as socket_:
        for n, (label, color) in enumerate([("red", RED), ("blue", BLUE)] * 3):
            teach = {"do": "teach", "frame": n, "label": label, "keep": True}
            socket_.send(message(teach, jpeg(color, seed=n)))
            assert hear(socket_, "taught")["label"] == label
        socket_.send(message({"do": "ask", "frame": 9, "match": True}, jpeg(RED, seed=50)))
        answer = hear(socket_, "answer")
    assert (answer["frame"], answer["label"], answer["items"]) == (9, "red", 6)
    assert set(answer["milliseconds"]) == {"decode", "answer", "match"}
    assert answer["matches"]["id"] == answer["neighbors"][0]["id"]
    with procmem.Embedder(page.memory.path.parent / "tiny.onnx"):
        expected = page.memory.classify(jpeg(RED, seed=50), 10)
    assert answer["confidence"] == expected.confidence
    assert [n["similarity"] for n in answer["neighbors"]] == [
        n.similarity for n in expected.neighbors
    ]

    status, plan = page.ask("POST", "/api/forget?plan=1", b'{"label": "red"}')
    assert (status, plan["count"], len(page.memory)) == (200, 3, 6)
    gone = [item["id"] for item in plan["items"]]
    assert page.ask("GET", f"/api/items/{gone[0]}/thumbnail")[0] == 200
    status, report = page.ask("POST", "/api/forget", b'{"label": "red"}')
    assert (status, report["purged"], report["windows_found"]) == (200, True, 0)
    assert procmem.check_receipt(procmem.read_receipt(report["receipt"].encode())) == ()
    for id_ in gone:
        assert page.ask("GET", f"/api/items/{id_}/thumbnail")[0] == 404
    status, items = page.ask("GET", "/api/items")
    assert {item["label"] for item in items["items"]} == {"blue"}
    assert page.ask("POST", "/api/forget", b'{"label": "red"}')[0] == 404


def test_all_that_look_like_this_are_forgotten_and_no_others(page):
    for n in range(3):
        for label, color in (("red", RED), ("blue", BLUE)):
            status, _ = page.ask("POST", f"/api/teach?label={label}", jpeg(color, seed=n))
            assert status == 200
    path = "/api/forget-similar?min_similarity=0.97"
    status, plan = page.ask("POST", path + "&plan=1", jpeg(RED, seed=7))
    assert (status, plan["count"]) == (200, 3)
    assert page.ask("POST", path, jpeg(RED, seed=7))[0] == 200
    assert page.memory.stats().labels == {"blue": 3}


def test_a_mark_is_found_on_later_frames_until_it_ends(page):
    frame = Image.new("RGB", (64, 64), BLUE)
    frame.paste(RED, (0, 0, 32, 64))
    mask = np.full((64, 64), 255, dtype=np.uint8)
    mask[8:56, 8:24], mask[8:56, 40:56] = 1, 0
    encoded = []
    for picture in (frame, Image.fromarray(mask)):
        file = io.BytesIO()
        picture.save(file, "PNG")
        encoded.append(file.getvalue())
    with page.connect() as socket_:
        socket_.send(message({"do": "mark", "frame": 1}, *encoded))
        assert hear(socket_, "marked")["marked"] is True
        socket_.send(message({"do": "ask", "frame": 2, "find": True}, encoded[0]))
        region = hear(socket_, "answer")["region"]
        socket_.send(message({"do": "mark", "frame": 3}))
        assert hear(socket_, "marked")["marked"] is False
        socket_.send(message({"do": "ask", "frame": 4, "find": True}, encoded[0]))
        assert "region" not in hear(socket_, "answer")
        socket_.send(message({"do": "mark", "frame": 5}, encoded[0], encoded[0]))
        assert "painted" in hear(socket_, "error")["error"]
    import base64

    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(region.partition(",")[2]))))
    assert (drawn[:, :30, 3] > 0).all()
    assert (drawn[:, 34:, 3] == 0).all()


def test_nothing_but_the_vault_is_written_and_no_frame_stays(page, tmp_path):
    before = {path for path in tmp_path.rglob("*") if "vault" not in path.parts}
    picture = jpeg(RED, seed=3, side=200)
    with page.connect() as socket_:
        socket_.send(message({"do": "teach", "label": "red", "keep": True}, picture))
        hear(socket_, "taught")
        socket_.send(message({"do": "ask", "match": True}, picture))
        hear(socket_, "answer")
    status, kept = page.ask("DELETE", "/api/thumbnails")
    assert (status, kept) == (200, {"dropped": 1})
    assert {path for path in tmp_path.rglob("*") if "vault" not in path.parts} == before
    windows = {picture[at : at + 16] for at in range(200, len(picture) - 16, 16)}
    for file in (tmp_path / "vault").iterdir():
        data = file.read_bytes()
        assert not any(window in data for window in windows)


def test_the_map_and_the_items_are_those_of_the_memory(page):
    for n in range(4):
        page.ask("POST", "/api/teach?label=red", jpeg(RED, seed=n))
    _, seen = page.ask("GET", "/api/map")
    own = page.memory.map()
    assert [dot["id"] for dot in seen["dots"]] == [str(id_) for id_ in own.ids]
    np.testing.assert_allclose([[d["x"], d["y"]] for d in seen["dots"]], own.points, atol=1e-6)
    _, part = page.ask("GET", "/api/items?start=1&limit=2")
    assert (part["total"], len(part["items"])) == (4, 2)


# ---- bad and hostile input


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/teach?label=x", b"no picture", 400),
        ("POST", "/api/teach", jpeg(RED), 400),
        ("POST", "/api/teach?label=%00", jpeg(RED), 400),
        ("POST", "/api/teach?label=" + "x" * 1001, jpeg(RED), 400),
        ("POST", "/api/teach?label=x&keep=yes", jpeg(RED), 400),
        ("POST", "/api/forget", b"", 400),
        ("POST", "/api/forget", b"[" * 100_000, 400),
        ("POST", "/api/forget", b'{"ids": []}', 400),
        ("POST", "/api/forget", b'{"ids": [1]}', 400),
        ("POST", "/api/forget", b'{"ids": ["-1"]}', 400),
        ("POST", "/api/forget", b'{"ids": ["9223372036854775808"]}', 400),
        ("POST", "/api/forget", b'{"ids": ["1"], "label": "x"}', 400),
        ("POST", "/api/forget", b'{"ids": ["1"]}', 404),
        ("POST", "/api/forget", b'{"label": "nobody"}', 404),
        ("POST", "/api/forget", b'{"label": "\\ud800"}', 404),
        ("POST", "/api/forget-similar?min_similarity=nan", jpeg(RED), 400),
        ("POST", "/api/forget-similar?min_similarity=x", jpeg(RED), 400),
        ("GET", "/api/items?limit=0", None, 400),
        ("GET", "/api/items?limit=1e9", None, 400),
        ("GET", "/api/items?start=-1", None, 400),
        ("GET", "/api/items/x/thumbnail", None, 400),
        ("GET", "/api/items/1/thumbnail", None, 404),
        ("GET", "/api/forget", None, 405),
        ("PUT", "/api/state", b"", 405),
        ("GET", "/static/../page.py", None, 404),
        ("GET", "/..%2f..%2fserver.py", None, 404),
        ("GET", "/live", None, 404),
    ],
)
def test_bad_requests_get_a_reason_and_change_nothing(shared, method, path, body, status):
    before = shared.memory.stats()
    got, answer = shared.ask(method, path, body)
    assert got == status, answer
    assert answer["error"]
    assert "Traceback" not in answer["error"]
    assert shared.memory.stats() == before


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "header"),
        (b"\xff\xff\xff\xff", "header"),
        (b"\x02\0\0\0{}", "do is None"),
        (b"\x02\0\0\0[]", "object"),
        (b"\x01\0\0\0{", "not JSON"),
        (b"\x02\0\0\0\xff\xfe", "not JSON"),
        (message({"do": "fly"}), "do is 'fly'"),
        (message({"do": ["ask"]}), "do is"),
        (message({"do": "ask"}), "do not fit"),
        (message({"do": "ask"}, b"a", b"b"), "do not fit"),
        (message({"do": "ask", "parts": [-1]}), "a part of -1"),
        (message({"do": "ask", "parts": [True]}, b"x"), "a part of True"),
        (message({"do": "ask", "parts": [10]}, b"x"), "1 are left"),
        (message({"do": "ask"}, b"x") + b"more", "after the last part"),
        (message({"do": "ask", "frame": -1}, b"x"), "frame is -1"),
        (message({"do": "ask", "frame": 1e400}, b"x"), "frame is inf"),
        (message({"do": "ask", "match": 1}, b"x"), "match is 1"),
        (message({"do": "ask", "label": "x"}, b"x"), "unknown field 'label'"),
        (message({"do": "teach", "label": 5}, b"x"), "label is 5"),
    ],
)
def test_a_message_that_cannot_be_read_says_which_field(data, words):
    with pytest.raises(procmem.InputError, match=words.replace("[", r"\[")):
        read_message(data)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(shared):
    head = (
        f"POST /{shared.server.token}/api/teach?label=x HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{shared.server.port}\r\nOrigin: {shared.origin}\r\n"
        f"Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
    )
    assert b" 413 " in raw(shared, head.encode())


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(shared):
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    status, answer = shared.ask("POST", "/api/teach?label=x", file.getvalue())
    assert status == 400
    assert "pixels" in answer["error"]


def test_a_thousand_hostile_requests_crash_nothing_and_memory_stays_bounded(page, caplog):
    """Malformed bytes, wrong requests, and WebSocket frames; then everything still works."""
    random_ = random.Random(20260101)
    good = jpeg(RED)
    requests = [_hostile_request(page, random_, good) for _ in range(600)]
    before = _resident_bytes()
    for request in requests:
        raw_hostile(page, request)
    for _ in range(20):
        with suppress(Exception), page.connect(ping_interval=None) as socket_:
            for _ in range(20):
                socket_.send(_hostile_message(random_, good))
            while True:
                socket_.recv(timeout=5)

    assert _resident_bytes() - before < 150 * 2**20
    assert [record for record in caplog.records if record.exc_info] == []
    assert "failed" not in caplog.text  # the guard's words for what no route expected
    assert page.ask("POST", "/api/teach?label=red", good)[0] == 200
    with page.connect() as socket_:
        socket_.send(message({"do": "ask", "frame": 1}, good))
        assert hear(socket_, "answer")["label"] == "red"


def raw_hostile(page: Running, request: bytes) -> None:
    with suppress(OSError), socket.create_connection(("127.0.0.1", page.server.port), 5) as sent:
        sent.settimeout(0.5)
        sent.sendall(request)
        sent.shutdown(socket.SHUT_WR)
        sent.recv(1 << 16)


def _hostile_request(page: Running, random_: random.Random, good: bytes) -> bytes:
    method = random_.choice(
        ["GET", "POST", "DELETE", "PUT", "OPTIONS", "TRACE", "\x00", "GET" * 99]
    )
    path = random_.choice(
        [
            "/api/state",
            "/api/teach?label=a%ff",
            "/api/forget",
            "/api/forget-similar",
            "/api/ask",
            "/live",
            "/../../etc/passwd",
            "/%2e%2e/",
            "/api/items?limit=" + "9" * 5000,
            "/" * 3000,
        ]
    )
    body = random_.choice([b"", good, good[: len(good) // 2], random_.randbytes(2000), b"{" * 999])
    headers = [
        f"Host: 127.0.0.1:{page.server.port}",
        f"Origin: {page.origin}",
        random_.choice(["Connection: close", "Connection: Upgrade\r\nUpgrade: websocket"]),
        random_.choice(["X: " + "y" * 20_000, "A: b", "A:" * 50, "Cookie: a=b", "\xff: \xfe"]),
        random_.choice(
            [
                f"Content-Length: {len(body)}",
                "Content-Length: -5",
                "Content-Length: 99999999999999",
                "Transfer-Encoding: chunked",
                f"Content-Length: {len(body)}\r\nContent-Length: 1",
            ]
        ),
    ]
    token = random_.choice([page.server.token] * 4 + ["x", ""])
    head = f"{method} /{token}{path} HTTP/1.1\r\n" + "\r\n".join(headers) + "\r\n\r\n"
    request = head.encode("latin-1") + body
    if random_.random() < 0.3:  # a few wrong bytes anywhere
        spoiled = bytearray(request)
        for _ in range(random_.randrange(1, 20)):
            spoiled[random_.randrange(len(spoiled))] = random_.randrange(256)
        request = bytes(spoiled)
    return request[: random_.randrange(1, len(request))] if random_.random() < 0.2 else request


def _hostile_message(random_: random.Random, good: bytes) -> bytes | str:
    header = {
        "do": random_.choice(["ask", "teach", "mark", "", None, 5, "x" * 5000]),
        "frame": random_.choice([0, -1, 2**60, "a", None, 1.5]),
        "label": random_.choice(["a", "", "\0", 5, "x" * 2000, "\ud800"]),
        "match": random_.choice([True, False, "x"]),
    }
    chosen = {name: value for name, value in header.items() if random_.random() < 0.7}
    part = random_.choice([good, good[:50], random_.randbytes(500), b"\x89PNG\r\n\x1a\n", b"x"])
    data = message(chosen, *[part] * random_.randrange(3))
    kind = random_.random()
    if kind < 0.2:
        return "text"
    if kind < 0.4:
        return random_.randbytes(random_.randrange(300))
    return data


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_sender_that_trickles_is_ended_and_keeps_nobody_out(tmp_path):
    from procmem.page.guard import Guard

    async def application(scope, receive, send):  # pragma: no cover - never reached
        raise AssertionError

    async def ask() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        guard = Guard(application, token="t", port=1, body_seconds=0.05)

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(out: Any) -> None:
            sent.append(dict(out))

        headers = [(b"host", b"127.0.0.1:1"), (b"origin", b"http://127.0.0.1:1")]
        scope = {"type": "http", "method": "POST", "path": "/t/x", "headers": headers}
        await guard(scope, receive, send)
        return sent

    assert asyncio.run(ask())[0]["status"] == 408


# ---- many at once


def test_eight_browsers_at_once_get_right_answers_and_overload_sheds_frames(page):
    for n in range(4):
        for label, color in (("red", RED), ("blue", BLUE)):
            page.ask("POST", f"/api/teach?label={label}", jpeg(color, seed=n))
    wrong: list[str] = []
    shed: list[int] = []
    answered: list[int] = []

    def browse(number: int) -> None:
        colors = {0: ("red", RED), 1: ("blue", BLUE)}
        frames = [jpeg(colors[n % 2][1], seed=100 * number + n) for n in range(8)]
        dropped = got = 0
        with page.connect() as socket_:
            for n in range(120):  # far more than can be answered, without waiting for answers
                socket_.send(message({"do": "ask", "frame": n}, frames[n % 8]))
            while True:
                answer = hear(socket_, "answer")
                got, dropped = got + 1, dropped + answer["dropped"]
                if answer["label"] != colors[answer["frame"] % 2][0]:
                    wrong.append(f"browser {number}, frame {answer['frame']}: {answer['label']}")
                if answer["frame"] == 119:  # the newest is always answered
                    break
        shed.append(dropped)
        answered.append(got)

    threads = [threading.Thread(target=browse, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
    assert len(answered) == 8
    assert sum(shed) > 0
    # A frame is answered, shed, or its answer was replaced by a newer one before it was sent.
    assert all(got + dropped <= 120 for got, dropped in zip(answered, shed, strict=True))


def test_more_browsers_than_allowed_are_told_to_come_again(page):
    with ExitStack() as connections:
        for _ in range(MAX_CONNECTIONS):
            connection = connections.enter_context(page.connect())
            connection.send(message({"do": "ask", "frame": 1}, jpeg(RED)))
            hear(connection, "answer")
        with page.connect() as late, pytest.raises(Exception, match="too many browsers"):
            late.recv(timeout=10)
    with page.connect() as connection:
        connection.send(message({"do": "ask", "frame": 1}, jpeg(RED)))
        assert hear(connection, "answer")["frame"] == 1


def test_a_port_that_is_taken_is_an_error_with_the_way_out(shared, tmp_path):
    with pytest.raises(procmem.InputError, match="0 for any"):
        PageServer(shared.memory, None, port=shared.server.port)  # type: ignore[arg-type]


def test_the_command_teaches_a_folder_first_and_ends_quietly(tmp_path):
    from tests.browser import page_server

    model = write_tiny_model(tmp_path)
    for label, color in (("red", RED), ("blue", BLUE)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "one.jpg").write_bytes(jpeg(color))
    (tmp_path / "photos" / "red" / "broken.jpg").write_bytes(b"no picture")
    vault = tmp_path / "vault"
    options = ["--model", str(model), "--vault", str(vault)]
    for _ in range(2):  # the second time they are known
        with page_server(str(tmp_path / "photos"), *options) as said:
            assert said["items"] == 2
            assert said["url"].startswith("http://127.0.0.1:")
        assert said["process"].returncode == 0
    with procmem.VisualMemory(vault, embedder=str(model), read_only=True) as memory:
        assert memory.stats().labels == {"blue": 1, "red": 1}


def test_a_label_that_is_no_utf_8_costs_the_page_nothing(page):
    label = os.fsdecode(b"caf\xe9")
    page.memory.add(jpeg(RED), label)
    for path in ("/api/state", "/api/items", "/api/map"):
        status, document = page.ask("GET", path)
        assert status == 200, path
        assert label in json.dumps(document, ensure_ascii=False)
    assert page.ask("POST", "/api/ask", jpeg(RED))[1]["label"] == label
    forget = json.dumps({"label": label}).encode()
    assert page.ask("POST", "/api/forget", forget)[0] == 200
    assert len(page.memory) == 0


def test_a_large_photo_is_seen_on_the_page_as_it_is_in_an_app(page):
    picture = jpeg(RED, side=1500)
    page.memory.add(picture, "red")
    status, answer = page.ask("POST", "/api/ask", picture)
    assert (status, answer["size"]) == (200, [1500, 1500])
    assert answer["neighbors"][0]["similarity"] == (
        page.memory.classify(picture, 10).neighbors[0].similarity
    )
    assert page.ask("POST", "/api/teach?label=page", picture)[0] == 200
    first, second = page.memory._vault.records(page.memory._vault.ids())
    assert np.array_equal(first.vector, second.vector)
