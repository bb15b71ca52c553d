"""One candidate of `benchmark.py` in a process of its own: an order on stdin, figures on stdout.

A process for each, because the threads of one engine that wait disturb the other's, and because
memory is a process's.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Views = npt.NDArray[np.float32]
Answer = tuple[npt.NDArray[Any], ...]
Ask = Callable[[Views], Answer]
Opener = Callable[[int], Ask]
"""Number of threads -> what answers one view (1, 3, S, S)."""

_WARM_UP = 5


def main() -> None:
    """Reads the order, measures, prints one line of JSON."""
    order = json.loads(sys.stdin.read())
    views = np.load(order["views"])
    opener, views = _OPENERS[order["runner"]](order, views)
    ask = opener(order["threads"])
    times = []
    for number in range(_WARM_UP + order["images"]):
        view = views[number % len(views)][None]
        start = time.perf_counter()
        ask(view)
        times.append(1000 * (time.perf_counter() - start))
    if order["runner"] != "peer":
        answers = [ask(view[None]) for view in views]
        cls, patches = (np.concatenate(part) for part in zip(*answers, strict=True))
        np.savez(order["answers"], cls=cls, patches=patches)
    memory = _peak_megabytes()
    sys.stdout.write(
        json.dumps(
            {
                "p50_milliseconds": float(np.percentile(times[_WARM_UP:], 50)),
                "p95_milliseconds": float(np.percentile(times[_WARM_UP:], 95)),
                "images_per_second": _throughput(
                    opener(1), views, order["threads"], order["throughput_seconds"]
                ),
                "memory_megabytes": memory,
            }
        )
    )


def _throughput(ask: Ask, views: Views, callers: int, seconds: float) -> float:
    """Images per second of several callers of one engine, each with one image at a time."""
    counts = [0] * callers
    stop = threading.Event()
    # Each warms up first: torch.compile compiles anew for a thread of another number of threads.
    ready = threading.Barrier(callers + 1)

    def call(number: int) -> None:
        ask(views[:1])
        ready.wait()
        for view in itertools.cycle(views):
            if stop.is_set():
                return
            ask(view[None])
            counts[number] += 1

    workers = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)


def _procmem(order: dict[str, Any], views: Views) -> tuple[Opener, Views]:
    from procmem import Embedder

    def opener(threads: int) -> Ask:
        embedder = Embedder(
            Path(order["file"]), image_size=order["side"], device=order["device"], threads=threads
        )

        def ask(view: Views) -> Answer:
            embedding = embedder.embed_tensors(view)
            return embedding.cls, embedding.patches

        return ask

    return opener, views


def _torch(order: dict[str, Any], views: Views) -> tuple[Opener, Views]:
    import torch

    from procmem_export.sources import load_source

    _, model = load_source(
        Path(order["file"]),
        architecture=order["architecture"],
        normalization=order["normalization"],
    )
    device = torch.device(order["device"])
    run: Any = model.to(device)
    if order["runner"] == "torch.compile":
        run = torch.compile(model)

    def opener(threads: int) -> Ask:
        torch.set_num_threads(threads)

        @torch.inference_mode()
        def ask(view: Views) -> Answer:
            return tuple(part.cpu().numpy() for part in run(torch.from_numpy(view).to(device)))

        return ask

    return opener, views


def _peer(order: dict[str, Any], _: Views) -> tuple[Opener, Views]:
    from procmem.backends.onnxruntime import import_onnxruntime
    from procmem.errors import InputError

    onnxruntime = import_onnxruntime()

    def opened(threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(
            order["file"], options, providers=["CPUExecutionProvider"]
        )

    inputs = opened(1).get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        raise InputError(f"{order['file']} takes other than one float32 image (N, 3, H, W)")
    # A free batch is one image, a free side 224 pixels.
    free = (1, 3, 224, 224)
    shape = [
        side if isinstance(side, int) else usual
        for side, usual in zip(inputs[0].shape, free, strict=True)
    ]
    random = np.random.default_rng(0)
    views = random.standard_normal((8, *shape[1:])).astype(np.float32)

    def opener(threads: int) -> Ask:
        session = opened(threads)

        def ask(view: Views) -> Answer:
            return tuple(session.run(None, {inputs[0].name: view}))

        return ask

    return opener, views


def _peak_megabytes() -> float:
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage, whose maximum begins with that of the process that started this one.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


_OPENERS: dict[str, Callable[[dict[str, Any], Views], tuple[Opener, Views]]] = {
    "procmem": _procmem,
    "torch": _torch,
    "torch.compile": _torch,
    "peer": _peer,
}

if __name__ == "__main__":
    main()
