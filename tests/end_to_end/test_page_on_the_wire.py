"""A packet capture of the page at work: nothing goes anywhere but over the loopback device.

The command, the requests and the browser's part run in a network namespace of their own with a
second device, through which every packet for anywhere else would have to go; all its packets are
captured. A packet that is sent on purpose shows that the capture sees.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[2]

NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")

# Runs as the first process of the namespace.
CAPTURE = r"""
import atexit, fcntl, http.client, io, json, os, socket, struct, subprocess, sys, threading
sys.path[:0] = json.loads(os.environ["PATHS"])

def up(name, address):
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    def packed(ip):
        whose = struct.pack("16sH2s", name.encode(), socket.AF_INET, b"")
        return whose + socket.inet_aton(ip) + b"\0" * 8
    fcntl.ioctl(control, 0x8916, packed(address))        # SIOCSIFADDR
    if name != "lo":
        fcntl.ioctl(control, 0x891C, packed("255.255.255.0"))  # SIOCSIFNETMASK
    flags = struct.pack("16sH14x", name.encode(), 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
    fcntl.ioctl(control, 0x8914, flags)                  # SIOCSIFFLAGS

tap = os.open("/dev/net/tun", os.O_RDWR)
flags = 0x0001 | 0x1000  # IFF_TUN | IFF_NO_PI
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"out0", flags))  # TUNSETIFF
up("lo", "127.0.0.1")
up("out0", "10.77.0.1")
# Everything that is not loopback goes to the device: a default route by way of it.
route = struct.pack("L", 0)
gateway = struct.pack("HH4s8s", socket.AF_INET, 0, socket.inet_aton("10.77.0.2"), b"")
anywhere = struct.pack("HH4s8s", socket.AF_INET, 0, b"\0" * 4, b"")
# struct rtentry: pad, destination, gateway, mask, flags (RTF_UP | RTF_GATEWAY), the rest zero
entry = route + anywhere + gateway + anywhere + struct.pack("H", 0x3) + b"\0" * 200
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x890B, entry)  # SIOCADDRT

packets = []
def capture():
    while True:
        packet = os.read(tap, 65536)
        if packet[0] >> 4 == 4:  # the kernel itself looks for IPv6 routers on a new device
            packets.append(packet)
threading.Thread(target=capture, daemon=True).start()

from PIL import Image
main = [sys.executable, "-c", "from procmem.cli import main; main()", "demo"]
page = subprocess.Popen([*main, "--page", "--json", *sys.argv[1:]], stdout=-1, text=True)
atexit.register(page.kill)
lines = []
while not lines or lines[-1].rstrip() != "}":
    lines.append(page.stdout.readline())
    assert lines[-1], "the page did not start"
url = json.loads("".join(lines))["url"]
port, token = int(url.split(":")[2].split("/")[0]), url.split("/")[3]

def ask(method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, f"/{token}{path}", body, {"Origin": f"http://127.0.0.1:{port}"})
    response = connection.getresponse()
    data = response.read()
    assert response.status == 200, data
    return data

file = io.BytesIO()
Image.effect_noise((96, 96), 60).convert("RGB").save(file, "PNG")
for name in ("", "page.js", "page.css", "api/state"):
    ask("GET", "/" + name)
ask("POST", "/api/teach?label=noise&keep=1", file.getvalue())
answer = json.loads(ask("POST", "/api/ask?match=1", file.getvalue()))
assert answer["label"] == "noise"
from websockets.sync.client import connect
with connect(url.replace("http", "ws") + "live", origin=f"http://127.0.0.1:{port}") as live:
    header = json.dumps({"do": "ask", "parts": [len(file.getvalue())]}).encode()
    live.send(len(header).to_bytes(4, "little") + header + file.getvalue())
    assert json.loads(live.recv(timeout=60))["label"] == "noise"
ask("GET", "/api/map")
ask("POST", "/api/forget", b'{"label": "noise"}')
page.send_signal(2)
page.wait(60)
captured = len(packets)

control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
control.sendto(b"seen", ("192.0.2.1", 9))
for _ in range(100):
    if len(packets) > captured:
        break
    threading.Event().wait(0.05)
print(json.dumps({"captured": captured, "seen": any(b"seen" in packet for packet in packets)}))
"""


def can_make_a_network() -> bool:
    """True where a process may have a network namespace with a device of its own."""
    if not sys.platform.startswith("linux") or not Path("/dev/net/tun").exists():
        return False
    probe = (
        "import fcntl, os, struct; tap = os.open('/dev/net/tun', os.O_RDWR); "
        "fcntl.ioctl(tap, 0x400454CA, struct.pack('16sH22x', b'out0', 0x1001))"
    )
    tried = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", probe],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


@pytest.mark.skipif(not can_make_a_network(), reason="no network namespaces on this machine")
def test_the_page_at_work_sends_nothing_but_over_loopback(tmp_path):
    model = write_tiny_model(tmp_path)
    options = ["--model", str(model), "--vault", str(tmp_path / "vault")]
    home = tmp_path / "home"
    home.mkdir()
    paths = [str(ROOT / room) for room in ("sdk", "export", "pretrain")]
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", CAPTURE, *options],
        env={**os.environ, "HOME": str(home), "PATHS": json.dumps(paths if _from_tree() else [])},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"captured": 0, "seen": True}
    assert list(home.iterdir()) == []


def _from_tree() -> bool:
    import procmem

    return ROOT in Path(procmem.__file__).parents
