"""A Milvus server of our own for tests: milvus-lite in a process that can be killed.

Its calls run one after the other: milvus-lite has no locks around writing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SERVE = """
import sys
from milvus_lite.adapter.grpc.server import start_server_in_thread
server, lite, port = start_server_in_thread(sys.argv[1], port=int(sys.argv[2]), max_workers=1)
print(port, flush=True)
server.wait_for_termination()
"""


class LiteServer:
    """Served until `stop`; `start` afterwards serves the same folder at the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SERVE, str(self.folder), str(self.port)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """As if it lost its power, but for what the system still writes."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self.kill()

    def address(self, memory: str) -> str:
        return f"milvus://127.0.0.1:{self.port}?memory={memory}"
