"""What killed trainers leave is found, and nothing that anybody still uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genforge.files import write_json
from genforge.processes import Identity
from genforge.settings import UserError
from genforge.training.checkpoint import WRITER, Checkpoints, Snapshot
from genforge.training.leftovers import find
from tests.disasters import in_child, strike


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("recipes: {gan: {from: hinge-sngan}}\n")
    return tmp_path


def kept(root: Path, name: str = "gan") -> Path:
    return root / ".genforge" / "checkpoints" / name / ("d" * 32)


def train(folder: Path, steps: int = 2) -> None:
    checkpoints = Checkpoints(folder, warn=lambda text: None)
    checkpoints.load()
    for step in range(1, steps + 1):
        checkpoints.save(Snapshot(step, {"weight": torch.ones(1000)}, {}))


def flip(checkpoint: Path) -> None:
    content = (checkpoint / "tensors.safetensors").read_bytes()
    (checkpoint / "tensors.safetensors").write_bytes(content[:-1] + b"\x01")


def test_a_project_without_leftovers_has_none(root: Path) -> None:
    assert list(find(root)) == []
    assert in_child(lambda: train(kept(root))) == 0
    assert list(find(root)) == []


def test_what_a_killed_trainer_had_half_written_is_found_and_removed(root: Path) -> None:
    assert in_child(lambda: train(kept(root), 1)) == 0
    strike("kill", 8, kept(root), lambda: train(kept(root), 2))
    (left,) = find(root)
    assert left.kind == "temporary file" and ".tmp" in left.place and "0.0 MB" in left.what
    left.mend()
    assert list(find(root)) == [] and Checkpoints(kept(root)).steps() == [1]
    left.mend()  # a second time, as when two doctors are at work


def test_damaged_checkpoints_are_found_before_and_after_training_has_passed_over_them(root: Path) -> None:
    assert in_child(lambda: train(kept(root))) == 0
    flip(kept(root) / "step-0000000002")
    (left,) = find(root)
    assert left.kind == "checkpoint" and left.what.startswith(
        "a damaged checkpoint: the digest of its tensors is wrong"
    )

    assert in_child(lambda: train(kept(root))) == 0  # sets it aside, and writes it anew
    (aside,) = find(root)
    assert aside.place.endswith("damaged-step-0000000002")
    left.mend()
    assert Checkpoints(kept(root)).steps() == [2, 1], "what was mended meanwhile is left alone"
    aside.mend()
    assert list(find(root)) == []


def test_checkpoints_of_recipes_that_are_no_more_are_found_with_their_size(root: Path) -> None:
    for name in ("gan", "old", "_extractor"):
        assert in_child(lambda name=name: train(kept(root, name))) == 0  # type: ignore[misc]
    (left,) = find(root)
    assert left.place == str(kept(root, "old").parent) and "recipe `old`" in left.what and "0.0 MB" in left.what
    (root / "params.yaml").write_text("recipes: {gan: {from: hinge-sngan}, old: {from: vae}}\n")
    left.mend()
    assert kept(root, "old").is_dir(), "it has come back to params.yaml"
    (root / "params.yaml").write_text("recipes: {gan: {from: hinge-sngan}}\n")
    left.mend()
    assert not kept(root, "old").parent.exists() and kept(root).is_dir() and kept(root, "_extractor").is_dir()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_nothing_of_a_living_trainer_is_touched_nor_of_one_on_another_machine(root: Path, elsewhere: bool) -> None:
    for name in ("gan", "old"):
        train(kept(root, name))
        flip(kept(root, name) / "step-0000000002")
        (kept(root, name) / ".step-0000000003.0123abcd.tmp").mkdir()
        if elsewhere:
            write_json(kept(root, name) / WRITER, {"pid": 1, "started": 0.0, "host": "another"})
    assert list(find(root)) == []


def test_a_leftover_whose_trainer_has_come_back_is_left_alone(root: Path) -> None:
    assert in_child(lambda: train(kept(root))) == 0
    flip(kept(root) / "step-0000000002")
    (left,) = find(root)
    write_json(kept(root) / WRITER, Identity.own().to_json())
    left.mend()
    assert Checkpoints(kept(root)).steps() == [2, 1]


def test_without_params_yaml_nothing_is_called_an_orphan(root: Path) -> None:
    assert in_child(lambda: train(kept(root))) == 0
    (root / "params.yaml").unlink()
    with pytest.raises(UserError, match=r"params\.yaml does not exist"):
        list(find(root))
    for text in ("", "recipes:\n", "recipe: {vae: {from: vae}}\n", "recipes: {}\n"):  # emptied, or misspelt
        (root / "params.yaml").write_text(text)
        with pytest.raises(UserError, match=r"params\.yaml names no recipes"):
            list(find(root))
    assert kept(root).is_dir()
