"""Two real processes that `torchrun` starts train as one does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_training import assert_same_bits

from genforge.contracts import PART, ImageShape, of_part
from genforge.parallel import ALONE, Peers, meeting
from genforge.settings import UserError
from genforge.training.checkpoint import whole
from genforge.training.settings import TrainingSettings
from genforge.training.shares import Shares
from tests.networks.network_cases import some_pixels
from tests.training.parallel_training import CASES, RESUMED, trained


def train_by_two(folder: Path) -> None:
    """The weights that each of two processes has of every recipe."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).with_name("parallel_training.py")), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def by_two(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    return made_once("by-two", train_by_two)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_with_the_batch_of_both(name: str, by_two: Path) -> None:
    """The one cuts its batch in two, because what a batch knows of itself (its mean, in normalisation and relativistic
    losses) it knows by parts in both. What is remembered of a part, one of the two remembers."""
    first, second = (load_file(by_two / f"{name}-{rank}.safetensors") for rank in (0, 1))
    one = trained(name, accumulation=2)
    of_parts = {key for key in one if key.startswith(f"state.{PART}")}
    assert first.keys() | second.keys() == one.keys()
    assert first.keys() & second.keys() == one.keys() - of_parts
    for key in one.keys() - of_parts:
        torch.testing.assert_close(first[key], second[key], atol=0, rtol=0, msg=lambda text, key=key: f"{key}: {text}")
    both = {**first, **second}
    for key, value in one.items():
        torch.testing.assert_close(both[key], value, atol=2e-5, rtol=2e-5, msg=lambda text, key=key: f"{key}: {text}")
    half = trained(name, batch_size=4)
    learned = [key for key in one if not key.startswith("state.")]
    assert any(not torch.allclose(half[key], one[key], atol=2e-5, rtol=2e-5) for key in learned)


@pytest.mark.slow
def test_two_processes_go_on_from_a_checkpoint_with_the_same_bits(by_two: Path) -> None:
    """It holds what each of them alone remembered."""
    for rank in (0, 1):
        straight, again = (load_file(by_two / f"{name}-{rank}.safetensors") for name in (RESUMED, "resumed"))
        assert f"state.{of_part(rank)}chains" in again
        assert_same_bits(straight, again)


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2)])
def test_chains_that_are_remembered_are_shared_out_anew_when_a_run_goes_on_in_other_parts(
    tmp_path: Path, before: int, after: int
) -> None:
    """All of them, in equal shares: a step moves no more of them than a batch has images."""
    straight = trained(RESUMED, accumulation=before, kept=tmp_path)
    shutil.rmtree(whole(tmp_path)[0])  # so that it is the second of two steps which is made again
    again = trained(RESUMED, accumulation=after, kept=tmp_path)
    was, now = ([found[f"state.{of_part(part)}chains"] for part in range(parts)]
                for found, parts in ((straight, before), (again, after)))  # fmt: skip
    assert len({len(share) for share in now}) == 1
    stayed = (torch.cat(was) == torch.cat(now)).flatten(1).all(1)
    assert stayed.sum() >= len(stayed) - 2 * 8


def test_the_shares_are_the_batch() -> None:
    data = some_pixels(ImageShape(1, 8, 8))
    settings = TrainingSettings.read({"batch_size": 12, "accumulation": 2}, "training")
    whole = data.batch(5, 12).images
    parts = [part for rank in range(3) for part in Shares(data, settings, Peers(rank, 3), seed=0).of(5)]
    assert torch.equal(torch.cat([part.batch.images for part in parts]), whole)
    assert len({part.seed for part in parts}) == 6
    (alone,) = Shares(data, settings.model_copy(update={"accumulation": 1}), ALONE, seed=0).of(5)
    assert torch.equal(alone.batch.images, whole)
    assert alone.seed is None


def test_a_batch_that_cannot_be_shared_out() -> None:
    settings = TrainingSettings.read({"batch_size": 12, "accumulation": 2}, "training")
    with pytest.raises(
        UserError, match=r"batch_size is 12, .* 8 equal parts, 2 for each of 4 processes; .* multiple of 8"
    ):
        Shares(some_pixels(ImageShape(1, 8, 8)), settings, Peers(0, 4), seed=0)


def test_who_does_not_say_where_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match=r"MASTER_ADDR, MASTER_PORT is not set: .*torchrun"), meeting("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UserError, match="WORLD_SIZE='two'"), meeting("cpu"):
        pass
