"""A graph that is kept must be the graph that would be traced."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from procmem.errors import ExportError
from procmem_export import trace as module
from procmem_export.trace import OPSET, trace


class Scaled(nn.Module):
    """Tensors, and a number that is in no tensor."""

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.scale = scale
        nn.init.zeros_(self.linear.bias)
        nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.linear(x)


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 3)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Every module that torch's exporter is given; nothing is kept from before."""
    seen: list[nn.Module] = []
    run = torch.onnx.export

    def spy(traced: nn.Module, *arguments: object, **options: object) -> object:
        seen.append(traced)
        return run(traced, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.onnx, "export", spy)
    monkeypatch.setattr(module, "_graphs", {})
    return seen


def graph_of(traced: nn.Module, *, rows: str = "N", opset: int = OPSET) -> bytes:
    proto = trace(
        traced.eval(),
        torch.zeros(2, 4),
        inputs=("x",),
        outputs=("y",),
        free={0: torch.export.Dim(rows)},
        opset=opset,
    )
    data = proto.SerializeToString(deterministic=True)
    # Whoever is given a graph may change it.
    del proto.graph.node[:]
    return data


def test_the_same_module_is_traced_once_and_its_graph_stays_what_it_was(exports):
    first = graph_of(Scaled(0))
    assert graph_of(Scaled(0)) == first
    assert graph_of(Scaled(0)) == first
    assert len(exports) == 1


@pytest.mark.parametrize(
    "other",
    [
        lambda: graph_of(Scaled(1)),
        lambda: graph_of(Scaled(0, scale=2.0)),
        lambda: graph_of(Scaled(0), rows="M"),
        lambda: graph_of(Scaled(0), opset=20),
    ],
    ids=["weights", "number", "dimension", "opset"],
)
def test_what_a_graph_depends_on_is_told_apart(other, exports):
    assert graph_of(Scaled(0)) != other()
    assert len(exports) == 2


def test_a_module_that_was_changed_is_traced_anew(exports):
    changed = Scaled(0)
    before = graph_of(changed)
    with torch.no_grad():
        changed.linear.bias += 1
    assert graph_of(changed) != before
    assert len(exports) == 2


def test_only_the_last_graphs_are_kept(exports):
    for seed in range(module._GRAPHS_KEPT + 1):
        graph_of(Scaled(seed))
    assert len(module._graphs) == module._GRAPHS_KEPT
    graph_of(Scaled(0))  # the oldest, which made room
    assert len(exports) == module._GRAPHS_KEPT + 2


def test_a_module_that_cannot_be_traced_is_told_and_not_kept(exports):
    with pytest.raises(ExportError, match="torch could not export"):
        graph_of(Broken())
    assert not module._graphs
