"""A stream is a function of (configuration, position): nothing else may change a pixel."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import procmem_pretrain.stream as stream_module
import procmem_pretrain.workers as workers_module
from procmem.errors import BankError, InputError, RenderError, TrainingError
from procmem_pretrain.isolation import Failure
from procmem_pretrain.jobs import JobConfig, ProgramJobs, make_jobs, program_set
from procmem_pretrain.render import TorchRenderer
from procmem_pretrain.stream import ImageStream, StreamConfig, generate
from procmem_pretrain.workers import JobRunner

CONFIG = StreamConfig(
    root_seed=4, side=32, pool_images=12, images_per_program=3, mask_side=32, fresh_programs=1
)


def batches(count: int, *, start: int = 0, workers: int = 0, **change: object) -> torch.Tensor:
    config = dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
    with ImageStream(config, batch=5, start=start, workers=workers) as images:
        return torch.stack([next(images) for _ in range(count)])


def test_a_batch_is_uint8_on_the_device() -> None:
    drawn = batches(1)[0]
    assert drawn.shape == (5, 3, 32, 32)
    assert drawn.dtype == torch.uint8


def test_a_resumed_stream_equals_an_uninterrupted_one() -> None:
    whole = batches(9)
    for start in (1, 4, 8):
        assert torch.equal(batches(9 - start, start=start), whole[start:])


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(workers: int) -> None:
    assert torch.equal(batches(4, workers=workers), batches(4))


@pytest.mark.parametrize("share", [slice(0, 18), slice(18, 36), slice(33, 34)])
def test_a_share_is_that_part_of_the_whole_batch(share: slice) -> None:
    with ImageStream(CONFIG, batch=36) as whole, ImageStream(CONFIG, batch=36, share=share) as part:
        for _ in range(2):
            assert torch.equal(next(part), next(whole)[share])


def test_fresh_programs_replace_the_oldest_images() -> None:
    config = dataclasses.replace(CONFIG, process="shaders")
    with ImageStream(config, batch=1) as images:
        next(images)
        before = images._pool.clone()
        next(images)
        changed = (images._pool != before).flatten(1).any(1)
    assert changed.tolist() == [True] * 3 + [False] * 9


def test_without_fresh_programs_the_pool_stays() -> None:
    config = dataclasses.replace(CONFIG, fresh_programs=0)
    with ImageStream(config, batch=2) as images:
        next(images)
        before = images._pool.clone()
        next(images)
        assert torch.equal(images._pool, before)


@pytest.mark.parametrize("process", ["shaders", "stylegan"])
def test_a_process_that_does_not_mix_shows_each_image_once_if_enough_are_drawn(
    process: str,
) -> None:
    shown = batches(4, process=process, fresh_programs=2).flatten(0, 1)  # 6 drawn for 5 shown
    assert len({image.numpy().tobytes() for image in shown}) == len(shown)
    assert torch.equal(batches(1, process=process, fresh_programs=2, start=3)[0], shown[15:])


def test_seeds_and_processes_differ() -> None:
    assert not torch.equal(batches(1), batches(1, root_seed=5))
    assert not torch.equal(batches(1), batches(1, process="shaders"))


def test_untrained_generators_fill_the_pool_and_every_job_has_a_new_one() -> None:
    config = dataclasses.replace(CONFIG, process="stylegan")
    jobs = make_jobs(config.jobs, TorchRenderer())
    first, again, second = jobs.images(0), jobs.images(0), jobs.images(1)
    assert first.shape == (3, 32, 32, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert first.std(axis=(1, 2)).min() > 10
    assert batches(1, process="stylegan").shape == (1, 5, 3, 32, 32)
    assert program_set(config.jobs) != program_set(CONFIG.jobs)


def test_endless_programs_need_no_bank() -> None:
    assert batches(1, programs="endless").float().std() > 10
    assert program_set(JobConfig(programs="endless")) != program_set(JobConfig())


def test_a_program_that_a_driver_refuses_is_told_and_another_is_drawn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refusing(TorchRenderer):
        refused = 0

        def draw(self, program, times, views, *, side):  # type: ignore[no-untyped-def]
            if self.refused < 2:
                self.refused += 1
                raise RenderError("program abc does not compile")
            return super().draw(program, times, views, side=side)

    images = ProgramJobs(CONFIG.jobs, Refusing()).images(0)
    assert images.shape == (3, 32, 32, 3)
    assert caplog.text.count("abc does not compile; another program is drawn") == 2


def test_the_papers_protocol_shows_plain_views_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Spy(TorchRenderer):
        def draw(self, program, times, views, *, side):  # type: ignore[no-untyped-def]
            seen.append((times, views))
            return super().draw(program, times, views, side=side)

    jobs = ProgramJobs(JobConfig(side=32, protocol="paper", images_per_program=2), Spy())
    jobs.images(0)
    for times, views in seen:
        assert ((times >= 0.1) & (times <= 10)).all()
        assert (views == [0, 0, 0, 1]).all()


def test_a_job_that_is_lost_to_a_driver_is_drawn_with_another_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with_torch = TorchRenderer()
    jobs = ProgramJobs(CONFIG.jobs, with_torch)
    runner = JobRunner(CONFIG.jobs, renderer="torch", workers=1)
    lost = [Failure("time-out", "took more than 60 s"), Failure("crash", "ended with SIGSEGV")]
    runner._results = itertools.chain(lost, runner._results)
    try:
        drawn = [runner.next() for _ in range(3)]
    finally:
        runner.close()
    expected = [jobs.images(0, attempt=1), jobs.images(1, attempt=1), jobs.images(0)]
    for images, wanted in zip(drawn, expected, strict=True):
        assert np.array_equal(images, wanted)
    assert "took more than 60 s" in caplog.text
    assert "SIGSEGV" in caplog.text


def test_an_error_of_procmem_in_a_worker_keeps_its_type_and_message() -> None:
    config = dataclasses.replace(CONFIG, programs="no-such-bank.json")
    with (
        pytest.raises(BankError, match=r"no-such-bank\.json cannot be read"),
        ImageStream(config, batch=2, workers=1) as images,
    ):
        next(images)


def test_a_batch_that_does_not_fit_names_the_size_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = ImageStream._mix

    def short_of_memory(self: ImageStream, position: int, count: int, share: range) -> torch.Tensor:
        if count > 9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, position, count, share)

    monkeypatch.setattr(ImageStream, "_mix", short_of_memory)
    with (
        ImageStream(CONFIG, batch=32) as images,
        pytest.raises(TrainingError, match="8 would: use --batch 8"),
    ):
        next(images)


def test_a_pool_that_does_not_fit_is_told_before_anything_is_drawn() -> None:
    config = dataclasses.replace(CONFIG, pool_images=10_000_000, side=4096)
    with pytest.raises(TrainingError, match="use a smaller --pool-images"):
        ImageStream(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process": "kml"}, "did you mean"),
        ({"side": 4}, "side is 4"),
        ({"pool_images": 0}, "pool_images is 0"),
        ({"root_seed": -1}, "seed is -1"),
    ],
)
def test_a_configuration_out_of_range_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("argument", ["batch", "start", "workers"])
def test_a_negative_number_is_refused(argument: str) -> None:
    with pytest.raises(InputError, match=f"{argument} is -1"):
        ImageStream(CONFIG, **{argument: -1})  # type: ignore[arg-type]


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be used"):
        ImageStream(CONFIG, device="meta:x")


def test_generate_gives_the_first_images_of_the_stream() -> None:
    assert torch.equal(generate(CONFIG, 5), batches(1)[0])
    assert stream_module.CHUNK == 32  # part of what a seed means
    assert workers_module.TIMEOUT_SECONDS >= 10
