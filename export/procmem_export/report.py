"""A gate's figures beside the model file: Markdown for people, JSON for programs.

Takes a `GateReport`, gives texts to `export.py`, which writes `<name>.parity.md` and
`<name>.parity.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from procmem.manifest import Manifest
from procmem_export.gate import GateReport


def report_paths(output: Path) -> tuple[Path, Path]:
    """The Markdown and the JSON report of a model file."""
    return output.with_suffix(".parity.md"), output.with_suffix(".parity.json")


def as_document(manifest: Manifest, report: GateReport, *, accepted: bool) -> dict[str, Any]:
    """The report as plain data.

    Args:
        manifest: of the file.
        report: of the gate.
        accepted: whether a file below the gate was kept because that was asked for.
    """
    retrieval = report.retrieval
    return {
        "file": manifest.file,
        "sha256": manifest.sha256,
        "precision": manifest.precision,
        "original": dict(manifest.origin.chain)["checkpoint"],
        "engine": report.engine,
        "passed": not report.failures,
        "failures": list(report.failures),
        "accepted_below_the_gate": accepted,
        "minimum_cosine": report.minimum_cosine,
        "minimum_agreement": report.minimum_agreement,
        "parity": {str(side): one.as_dict() for side, one in report.parity.items()},
        "retrieval": None if retrieval is None else retrieval.as_dict(),
    }


def as_json(document: dict[str, Any]) -> str:
    """The report for programs."""
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def as_markdown(document: dict[str, Any]) -> str:
    """The report for people."""
    verdict = "passed" if document["passed"] else "did not pass"
    kept = "; it was kept because that was asked for" if document["accepted_below_the_gate"] else ""
    lines = [
        f"# Parity of {document['file']}",
        "",
        f"{document['precision']}, SHA-256 `{document['sha256']}`, made of the checkpoint "
        f"`{document['original']}`. It {verdict} the gate{kept}. Run by: {document['engine']}.",
        "",
        "Every image is procedural. Cosines are between the original's output in torch, float32, "
        "and the file's.",
        "",
        "| pixels | images | class token, least | patch tokens, mean | patch tokens, least | same "
        "nearest image |",
        "|---|---|---|---|---|---|",
    ]
    for side, one in document["parity"].items():
        lines.append(
            f"| {side} | {one['probes']:.0f} | {one['cls_cosine_min']:.6f} "
            f"| {one['patch_cosine_mean']:.6f} | {one['patch_cosine_min']:.6f} "
            f"| {one['nearest_agreement']:.1%} |"
        )
    lines += ["", f"Wanted: {document['minimum_cosine']} of the first two cosines.", ""]
    task = document["retrieval"]
    if task is not None:
        lines += [
            f"| retrieval among {task['images']:.0f} images, k = {task['neighbors']:.0f} | |",
            "|---|---|",
            f"| neighbors that both find | {task['neighbor_overlap']:.2%} |",
            f"| same k-NN label (wanted {document['minimum_agreement']:.0%}) "
            f"| {task['label_agreement']:.2%} |",
            f"| right label, original | {task['original_accuracy']:.2%} |",
            f"| right label, file | {task['copy_accuracy']:.2%} |",
            "",
        ]
    for failure in document["failures"]:
        lines += [f"Below the gate: {failure}.", ""]
    return "\n".join(lines)
