"""A checkpoint is whole or absent, and what is damaged is noticed."""

from __future__ import annotations

import itertools
import json
import random
import re
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genforge.settings import UserError
from genforge.training.checkpoint import Checkpoints, Damaged, Snapshot, unsealed
from tests.disasters import CANNOT_MOUNT, REACHED, Disaster, in_child, mount_small_disk, strike


def snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(5, 4, generator=generator)
    tensors = {
        "weight": weight,
        "tied": weight,
        "transposed": weight.T,
        "count": torch.tensor(step),
        "empty": torch.zeros(0, 3),
        "half": weight.to(torch.bfloat16),
        "random": torch.arange(256, dtype=torch.uint8),
    }
    return Snapshot(step, tensors, {"turn": 2 * step, "python": [3, [1, 2], None], "seconds": 0.1 + step})


def assert_same(loaded: Snapshot | None, saved: Snapshot) -> None:
    assert loaded is not None
    assert (loaded.step, loaded.state) == (saved.step, saved.state)
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor), name


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "run").load() is None
    Checkpoints(tmp_path / "run", identity={"recipe": ("a", 1)}).save(snapshot(7))
    assert_same(Checkpoints(tmp_path / "run", identity={"recipe": ["a", 1]}).load(), snapshot(7))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (9, 10, 100, 1000):
        checkpoints.save(snapshot(step))
    assert checkpoints.steps() == [1000, 100]
    assert_same(checkpoints.load(), snapshot(1000))


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Snapshot(3, {"weight": torch.zeros(1)}, {}))
    checkpoints.save(snapshot(3))
    assert_same(checkpoints.load(), snapshot(3))
    assert [path.name for path in tmp_path.glob("*step*")] == ["step-0000000003"]


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "tensors.safetensors").read_bytes())
    content[-9] ^= 1
    (path / "tensors.safetensors").write_bytes(bytes(content))


def cut_short(path: Path) -> None:
    content = (path / "tensors.safetensors").read_bytes()
    (path / "tensors.safetensors").write_bytes(content[: len(content) // 2])


def tear_the_state(path: Path) -> None:
    (path / "state.json").write_bytes((path / "state.json").read_bytes()[:-20])


def move_the_position(path: Path) -> None:
    state = json.loads((path / "state.json").read_text())
    state["state"]["turn"] += 1
    (path / "state.json").write_text(json.dumps(state))


def fill_with_zeros(path: Path) -> None:
    content = (path / "tensors.safetensors").read_bytes()
    (path / "tensors.safetensors").write_bytes(bytes(len(content)))


def another_format(path: Path) -> None:
    (path / "state.json").write_text('{"format": 99}')


DAMAGES = [
    flip_a_bit,
    cut_short,
    tear_the_state,
    move_the_position,
    fill_with_zeros,
    another_format,
    lambda path: (path / "tensors.safetensors").unlink(),
    lambda path: (path / "state.json").unlink(),
    lambda path: (path / "state.json").write_bytes(b""),
    lambda path: (path / "state.json").write_bytes(b"\xff\xfe\x00"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    warnings: list[str] = []
    checkpoints = Checkpoints(tmp_path, warn=warnings.append)
    checkpoints.save(snapshot(1))
    damage(checkpoints.save(snapshot(2)))
    assert_same(checkpoints.load(), snapshot(1))
    (warning,) = warnings
    assert "step-0000000002" in warning and "damaged" in warning and "the one before, of step 1" in warning
    assert (tmp_path / "damaged-step-0000000002").is_dir(), "it is kept for whoever wants to know what happened"
    checkpoints.save(snapshot(2))
    assert_same(checkpoints.load(), snapshot(2))
    assert len(warnings) == 1, "told once"


def test_where_all_are_damaged_that_is_said_and_nothing_is_deleted(tmp_path: Path) -> None:
    warnings: list[str] = []
    checkpoints = Checkpoints(tmp_path, warn=warnings.append)
    for step in (1, 2):
        flip_a_bit(checkpoints.save(snapshot(step)))
    assert checkpoints.load() is None
    (warning,) = warnings
    assert "step-0000000001" in warning and "step-0000000002" in warning and "afresh, since none is left" in warning
    assert len(list(tmp_path.glob("damaged-*/tensors.safetensors"))) == 2


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(snapshot(1))
    chance = random.Random(0)
    for file in (path / "state.json", path / "tensors.safetensors"):
        content = file.read_bytes()
        for _ in range(150):
            flipped = bytearray(content)
            flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            file.write_bytes(flipped)
            with pytest.raises(Damaged):
                unsealed(path)
        file.write_bytes(content)
    unsealed(path)


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, identity={"seed": 1}).save(snapshot(1))
    with pytest.raises(UserError, match="belongs to another run"):
        Checkpoints(tmp_path, identity={"seed": 2}).load()


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(snapshot(1))
    half = tmp_path / ".step-0000000002.0123abcd.tmp"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    assert_same(checkpoints.load(), snapshot(1))
    assert not half.exists()


def test_without_room_on_the_disk_the_earlier_checkpoint_stays_whole(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(snapshot(1))
    large = Snapshot(2, {"weight": torch.zeros(100_000)}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # the kernel ends the write in the middle
    try:
        with pytest.raises(UserError, match="checkpoint of step 2 could not be written") as error:
            checkpoints.save(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "make room" in str(error.value) and "it takes 0.4 MB" in str(error.value)
    assert re.search(r"[1-9][0-9.]* MB are free", str(error.value))
    assert_same(checkpoints.load(), snapshot(1))
    assert [path.name for path in tmp_path.glob("*step*")] == ["step-0000000001"], "nothing half written stays"
    assert list(tmp_path.glob(".*")) == []


def save_the_third(folder: Path) -> None:
    Checkpoints(folder).save(snapshot(3))


def save_again_after_a_rollback(folder: Path) -> None:
    Checkpoints(folder).save(replace(snapshot(2), rollbacks=1))


def load_over_leftovers(folder: Path) -> None:
    (folder / ".step-0000000003.0123abcd.tmp").mkdir()
    (folder / ".step-0000000003.0123abcd.tmp" / "tensors.safetensors").write_bytes(b"half")
    Checkpoints(folder).load()


@pytest.mark.parametrize("work", [save_the_third, save_again_after_a_rollback, load_over_leftovers])
@pytest.mark.parametrize("disaster", ["kill", "full"])
def test_whatever_strikes_at_whatever_instant_no_whole_checkpoint_is_lost(
    tmp_path: Path, disaster: Disaster, work: Callable[[Path], None]
) -> None:
    outcomes = []
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        for step in (1, 2):
            Checkpoints(folder).save(snapshot(step))
        outcomes.append(strike(disaster, number, folder, lambda folder=folder: work(folder)))  # type: ignore[misc]
        warnings: list[str] = []
        loaded = Checkpoints(folder, warn=warnings.append).load()
        assert loaded is not None
        assert_same(loaded, snapshot(loaded.step))
        assert loaded.step in (2, 3) and warnings == []
        if outcomes[-1] == REACHED:
            break
    assert len(outcomes) > 4
    assert disaster != "kill" or set(outcomes[:-1]) == {-signal.SIGKILL}


def test_a_full_disk_is_told_with_its_room(tmp_path: Path) -> None:
    """On a real disk of 300 kB, in a namespace of its own."""
    disk, said = tmp_path / "disk", tmp_path / "said.txt"
    disk.mkdir()

    def fill() -> None:
        mount_small_disk(disk, 300_000)
        checkpoints = Checkpoints(disk / "run")
        checkpoints.save(Snapshot(1, {"weight": torch.ones(25_000)}, {}))
        with pytest.raises(UserError) as error:
            checkpoints.save(Snapshot(2, {"weight": torch.zeros(60_000)}, {}))
        loaded = checkpoints.load()
        assert loaded is not None and loaded.step == 1 and loaded.tensors["weight"].sum() == 25_000
        said.write_text(str(error.value))

    status = in_child(fill)
    if status == CANNOT_MOUNT:
        pytest.skip("this machine lets no process mount a disk in a namespace of its own")
    assert status == 0
    assert re.search(
        r"checkpoint of step 2 .* No space left on device \(it takes 0.2 MB, and 0.\d MB are free", said.read_text()
    )


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(snapshot(1))
    assert sorted(file.name for file in path.iterdir()) == ["state.json", "tensors.safetensors"]
