"""From a checkpoint to a model file that a device runs, each held to its original by parity.

Reading order: `formats`, `onnx_format`, `parity`, `export`, `cli`.
Needs the extra: `pip install 'procmem[export]'`.
"""
