"""Two processes that torchrun starts must train what one process trains at the same total batch."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from procmem.errors import InputError, TrainingError
from procmem_pretrain import checkpoint, distributed
from procmem_pretrain.train import train
from procmem_pretrain.train_options import parse

COMMON = """--model vit-tiny --steps 4 --batch 8 --images.pool-images 24
--images.images-per-program 4 --images.side 64 --images.root-seed 3 --images.mask-side 32
--precision fp32 --readout-dimension 8
--readout-images 50 --health-programs 4"""

OBJECTIVES = {
    "simdino": "--simdino.local-side 32 --simdino.projection 16 --simdino.local-views 1",
    "dino": """--objective dino --dino.prototypes 64 --dino.hidden 32 --dino.bottleneck 16
    --dino.global-side 64 --dino.local-side 32 --dino.local-views 1 --dino.drop-path 0""",
}


def run(folder: Path, objective: str, *, processes: int) -> dict[str, torch.Tensor]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    launcher = [*torchrun, str(processes)] if processes > 1 else []
    arguments = ["train", "--folder", str(folder), *COMMON.split(), *OBJECTIVES[objective].split()]
    ran = subprocess.run(
        [sys.executable, *launcher, "-m", "procmem_pretrain", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "FutureWarning" not in ran.stderr, "every process would tell its user"
    newest = checkpoint.complete(folder)[0]
    assert newest is not None
    return checkpoint.load(newest)[1]


LATE = """
import os, sys, time
from pathlib import Path
import procmem_pretrain.train as train
from procmem_pretrain.cli import main

make, folder = train.make_objective, Path(sys.argv[sys.argv.index("--folder") + 1])

def late(config):
    until = time.monotonic() + 5
    while os.environ["RANK"] == "1" and time.monotonic() < until and not any(folder.glob("step-*")):
        time.sleep(0.1)
    return make(config)

train.make_objective = late
main()
"""


def test_a_process_that_is_late_begins_with_the_others(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = [*COMMON.split(), *OBJECTIVES["simdino"].split(), "--stop-after", "0"]
    command = [tmp_path / "late.py", "train", "--folder", tmp_path / "run", *options]
    # Without the wait for it, it would take the first one's checkpoint for a run to go on with, and
    # both would wait for each other for ever.
    subprocess.run(
        [sys.executable, *torchrun, *map(str, command)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert checkpoint.complete(tmp_path / "run")


def test_processes_that_see_different_folders_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "any_of", lambda *wishes: (True,) * len(wishes))
    config = parse(["--folder", str(tmp_path), *COMMON.split(), *OBJECTIVES["simdino"].split()])
    with pytest.raises(TrainingError, match="on a disk that they share"):
        train(config.config, tmp_path)


def losses(folder: Path) -> list[float]:
    with (folder / "log.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_give_the_result_of_one(tmp_path: Path, objective: str) -> None:
    one = run(tmp_path / "one", objective, processes=1)
    two = run(tmp_path / "two", objective, processes=2)
    assert (tmp_path / "two" / "vit-tiny.safetensors").is_file()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        # AdamW's first steps have the size of the learning rate (1e-3 at the most, here a tenth of
        # it) whatever the gradient: where that is rounding noise, so is the step's sign. That is so
        # for all biases of the keys, which add the same to every logit of a softmax: their true
        # gradient is zero. Those, a third of the bias, may go either way; the rest may not.
        difference = (tensor.float() - two[name].float()).abs()
        if name.startswith("optimizer/"):
            continue
        if name.endswith("qkv.bias"):
            queries, _, values = difference.chunk(3)
            difference = torch.cat([queries, values])
        assert difference.mean() < 1e-5, name
        assert difference.max() < 1e-3, name


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 3)
    with pytest.raises(InputError, match="batch is 8, wanted a multiple of the 3 processes"):
        distributed.share(8)


def test_a_single_process_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.ones(2, requires_grad=True)
    assert distributed.share(8) == slice(0, 8)
    assert distributed.sum_across(values) is values
    assert distributed.any_of(True, False) == (True, False)
