"""A local page on which a memory is taught, asked, seen and made to forget: `procmem demo --page`.

Stands on `memory.py` as the command line does, and is not part of `import procmem`. A request's
walk: `guard.py` (who may ask, and how much) -> `routes.py` (photos, the memory's items, forgetting)
or `live.py` (a camera's frames over one WebSocket, read by `messages.py`) -> `desk.py` (the memory
and the thumbnails) -> `static/` (what the browser runs). `server.py` opens the port.

Listens on the loopback address only and writes no file but the vault's.
"""

from __future__ import annotations
