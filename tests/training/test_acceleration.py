"""What makes steps fast changes nothing that it does not say, and is left out where the machine lacks it."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn
from toy_training import Denoise, Duel, ToyData, assert_same_bits, weights

from genforge.contracts import Batch, Loss, Objective, Player
from genforge.networks.layers import group_norm
from genforge.randomness import seed_everything
from genforge.training import acceleration, loop
from genforge.training.acceleration import uses_channels_last
from genforge.training.loop import train
from genforge.training.optimization import OptimizerSettings
from genforge.training.settings import TrainingSettings
from genforge.training.turn import TurnSettings

SHORT = TrainingSettings(steps=12, batch_size=8, log_every=4, ema=0.9)


def trained(kind: type[Objective] = Duel, **settings: object) -> Objective:
    seed_everything(1)
    objective = kind()  # type: ignore[call-arg]
    train(objective, ToyData(), SHORT.model_copy(update=settings))
    return objective


def test_kept_memory_gives_the_same_bits() -> None:
    assert_same_bits(weights(trained(keep_memory=True)), weights(trained(keep_memory=False)))


def test_a_training_takes_no_more_threads_than_it_is_given_and_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    for most in (1, None, 16):
        trained(threads=most)
    assert taken == [1, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("allowed", [True, False])
def test_products_of_a_gpu_are_rounded_while_it_trains_as_it_was_told(
    allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The switches are there without a GPU, too."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    seen, step = [], loop._step

    def spying(*arguments: Any) -> None:
        seen.append((matmul.allow_tf32, cudnn.allow_tf32))
        step(*arguments)

    monkeypatch.setattr(loop, "_step", spying)
    before = matmul.allow_tf32, cudnn.allow_tf32
    trained(tf32=allowed)
    assert set(seen) == {(allowed, allowed)}
    assert (matmul.allow_tf32, cudnn.allow_tf32) == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_glibc_takes_what_it_is_told() -> None:
    assert acceleration._keep_memory()


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/sys/kernel/mm/transparent_hugepage").is_dir(),
    reason="glibc on a Linux that has them",
)
def test_what_training_asks_for_next_lies_in_large_pages() -> None:
    before = resident()
    assert acceleration._keep_memory(), "or the block would go back to the system"
    acceleration._ask_for_large_pages(ctypes.CDLL(None))
    assert resident() - before < acceleration.IN_LARGE_PAGES / 8, "nothing is taken"
    kilobytes = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1])
        elif line.startswith("VmFlags:") and "hg" in line.split():  # the kernel was asked for large pages here
            kilobytes += size
    assert kilobytes * 1024 >= acceleration.IN_LARGE_PAGES - 2 * acceleration.LARGE_PAGE


def resident() -> int:
    """Bytes of memory that this process has."""
    return psutil.Process().memory_info().rss


def test_bfloat16_is_left_out_where_the_processor_lacks_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acceleration, "multiplies_bfloat16", lambda: False)
    acceleration._left_out.cache_clear()
    lacking = weights(trained(precision="bfloat16"))
    assert_same_bits(lacking, weights(trained(precision="float32")))
    assert capsys.readouterr().err.count("left out: training.precision: bfloat16") == 1, "one line a process"


def test_the_compiler_is_left_out_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acceleration.shutil, "which", lambda name: None)
    acceleration._left_out.cache_clear()
    trained(compile=True)
    assert "left out: training.compile: torch.compile wants a C++ compiler" in capsys.readouterr().err


def test_the_compiler_is_left_out_where_pythons_headers_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(acceleration.shutil, "which", lambda name: "/usr/bin/c++")
    monkeypatch.setattr(acceleration.sysconfig, "get_path", lambda name: str(tmp_path))
    acceleration._left_out.cache_clear()
    trained(compile="turn")
    said = capsys.readouterr().err
    assert f"left out: training.compile: torch.compile wants Python's headers ({tmp_path}/Python.h)" in said


def test_on_a_cpu_channels_are_last_unless_something_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "multiplies_bfloat16", lambda: True)
    asked: list[bool] = []

    class Watched(loop.Turn):
        def __init__(self, objective: Objective, player: Player, optimizer: OptimizerSettings, settings: TurnSettings):
            asked.append(settings.channels_last)
            super().__init__(objective, player, optimizer, settings)

    monkeypatch.setattr(loop, "Turn", Watched)
    for settings in (
        {"precision": "bfloat16"},
        {"precision": "float32"},
        {"precision": "float32", "channels_last": True},
        {"precision": "bfloat16", "channels_last": False},
    ):
        trained(Denoise, **settings)
    assert asked == [True, True, True, False]


def test_on_a_cpu_a_network_that_loses_by_channels_last_lies_channels_first_and_all_that_learn_with_it() -> None:
    bfloat16, float32 = TrainingSettings(precision="bfloat16"), TrainingSettings(precision="float32")
    convolutions, normalised = nn.Sequential(nn.Conv2d(3, 8, 3)), nn.Sequential(nn.Conv2d(3, 8, 3), group_norm(8))
    for settings in (bfloat16, float32):
        assert uses_channels_last(settings, "cpu", [convolutions])
        assert not uses_channels_last(settings, "cpu", [convolutions, normalised])
    assert uses_channels_last(bfloat16, "cuda", [convolutions, normalised])
    assert not uses_channels_last(float32, "cuda", [convolutions])
    assert uses_channels_last(bfloat16.model_copy(update={"channels_last": True}), "cpu", [normalised])


@pytest.mark.parametrize("last", [True, False])
def test_images_of_a_turn_lie_in_memory_as_is_asked_however_the_data_have_them(last: bool) -> None:
    """Data on disk have channels last, and a view of them as well."""

    class Colourful(ToyData):
        def batch(self, turn: int, size: int) -> Batch:
            images = torch.rand(size, 3, 8, 8)
            return Batch(images.contiguous(memory_format=(torch.channels_last, torch.contiguous_format)[last]))

    class Watched(Denoise):
        def loss(self, player: Player, batch: Batch) -> Loss:
            layout = torch.channels_last if last else torch.contiguous_format
            assert batch.images.is_contiguous(memory_format=layout)
            return super().loss(player, Batch(batch.images[:, :1]))

    train(Watched(), Colourful(), SHORT.model_copy(update={"channels_last": last}))


def test_a_gradient_s_length_is_logged_with_every_line_and_taken_at_one_turn_in_ten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths: list[torch.dtype | None] = []
    norm = torch._foreach_norm
    monkeypatch.setattr(
        torch, "_foreach_norm", lambda tensors, *a, **k: lengths.append(k.get("dtype")) or norm(tensors, *a, **k)
    )
    lines: dict[int, dict[str, float]] = {}
    seed_everything(1)
    settings = SHORT.model_copy(update={"steps": 60, "log_every": 20})
    train(Denoise(), ToyData(), settings, log=lambda step, values: lines.update({step: dict(values)}))
    assert lengths.count(torch.float64) == 6
    assert all("denoiser_gradient" in values for values in lines.values()) and list(lines) == [20, 40, 60]
