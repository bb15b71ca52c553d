"""Where a memory's items are kept and found: one contract, a folder on this device or a server.

Read `contract.py` first: it is all that `VisualMemory` knows of a store. `local.py` keeps the items
in a vault of this device, where every promise of docs/laws.md holds. `server.py` keeps them on a
server, for many devices, over what `table.py` asks of it; `postgres` and `milvus` are two.
`opening.py` tells from the path or address which it is. docs/shared-memories.md says what stays
exact on a server and what does not.
"""
