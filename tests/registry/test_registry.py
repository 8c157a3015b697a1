"""Versions are registered once, and aliases move only when nobody moved them meanwhile, with a history."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genforge.contracts import ImageShape
from genforge.registry import registry
from genforge.registry.alias_history import Move, Taken
from genforge.registry.registry import Registry, Version, compare
from genforge.settings import UserError
from tests.trained_models import trained_folder

SCORES = {"fid": {"mean": 3.0, "std": 0.1}}


@pytest.fixture
def digits(tracked: Path) -> Registry:
    return Registry(tracked, "digits")


def bare_versions(digits: Registry, count: int) -> None:
    """Versions without files: what aliases need."""
    digits.history_of_aliases.make_model()
    for _ in range(count):
        digits.client.create_model_version("digits", (digits.root / "nothing").as_uri())


def aliases_moved_to(digits: Registry, alias: str = "staging") -> list[int | None]:
    return [move.after for move in digits.history(alias)]


def test_the_same_weights_are_one_version(digits: Registry, tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "gan", "gan")
    first, is_new = digits.register(folder, SCORES, "p-1", {"family": "gan", "recipe": "gan"})
    assert (first.number, is_new) == (1, True)
    again, is_new = digits.register(folder, {"fid": {"mean": 5.0, "std": 0.2}}, "p-2", {"family": "gan"})
    assert (again.number, is_new) == (1, False)
    assert (again.mean("fid", "p-1"), again.mean("fid", "p-2"), again.mean("kid", "p-1")) == (3.0, 5.0, None)
    other, is_new = digits.register(trained_folder(tmp_path / "b", "gan", seed=1), SCORES, "p-1", {"family": "gan"})
    assert (other.number, is_new) == (2, True)
    assert (first.recipe, first.family) == ("gan", "gan")


def test_a_registered_model_is_loaded_by_its_alias(digits: Registry, tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "gan", "gan")
    version, _ = digits.register(folder, SCORES, "p-1", {})
    digits.move("staging", version.number, None, "the first")
    from genforge.catalog import target
    from genforge.models import load

    model = registry.load_model(digits.root, "models:/digits@staging")
    assert np.array_equal(registry.draw(model, 16, seed=5), load(folder, target).draw(5, 16))
    registry.check_shape(model, ImageShape(1, 8, 8))
    with pytest.raises(registry.Unusable, match=r"\(8, 8, 1\).*\(28, 28, 1\)"):
        registry.check_shape(model, ImageShape(1, 28, 28))
    with pytest.raises(registry.Unusable, match="alias nope not found"):
        registry.load_model(digits.root, "models:/digits@nope")

    # The same files, for this project's own code to read.
    with registry.own_folder(digits.root, "models:/digits@staging") as fetched:
        assert (fetched / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()
        assert np.array_equal(load(fetched, target, companions=True).draw(5, 4), load(folder, target).draw(5, 4))
    assert not fetched.exists()
    with pytest.raises(UserError, match="nope"), registry.own_folder(digits.root, "models:/digits@nope"):
        pass


def test_the_run_that_made_the_weights_is_linked(digits: Registry, tmp_path: Path) -> None:
    from genforge.models import digest as model_digest
    from genforge.tracking import runs as tracking

    folder = trained_folder(tmp_path / "gan", "gan")
    with tracking.run(digits.root, "train", "gan") as run:
        run.tags({"weights": model_digest(folder)})
    tracking.upload_all(digits.root)
    version, _ = digits.register(folder, SCORES, "p-1", {})
    linked = digits.client.get_model_version("digits", str(version.number)).run_id
    assert linked is not None
    assert digits.client.get_run(linked).data.tags["genforge.run"] == run.id


def test_an_alias_moves_from_what_was_compared_and_from_nothing_else(digits: Registry) -> None:
    bare_versions(digits, 3)
    first = digits.move("staging", 1, None, "the first", {"fid": 3.0})
    assert (first.before, first.after, first.action, first.evidence) == (None, 1, "promote", {"fid": 3.0})
    assert first.who
    digits.move("staging", 2, 1, "better")
    with pytest.raises(UserError, match=r"version 2 by now, not version 1.*nothing was changed"):
        digits.move("staging", 3, 1, "compared with 1")
    with pytest.raises(UserError, match="no version 9"):
        digits.move("staging", 9, 2, "there is none")
    assert digits.aliases() == {"staging": 2}
    assert aliases_moved_to(digits) == [1, 2]


def test_rolling_back_goes_one_further_each_time(digits: Registry) -> None:
    bare_versions(digits, 3)
    for number, before in ((1, None), (2, 1), (3, 2)):
        digits.move("staging", number, before, "better")
    assert digits.rollback().after == 2
    assert digits.rollback().after == 1
    with pytest.raises(UserError, match="no earlier version"):
        digits.rollback()
    digits.move("staging", 3, 1, "better after all")
    assert digits.rollback().after == 1
    assert aliases_moved_to(digits) == [1, 2, 3, 2, 1, 3, 1]
    assert digits.aliases()["staging"] == 1


def test_a_version_that_was_deleted_is_not_gone_back_to(digits: Registry) -> None:
    bare_versions(digits, 3)
    for number, before in ((1, None), (2, 1), (3, 2)):
        digits.move("staging", number, before, "better")
    digits.client.delete_model_version("digits", "2")
    assert digits.rollback().after == 1


@pytest.mark.parametrize("interrupted", ["set_registered_model_alias", "finish"])
def test_a_move_that_was_interrupted_is_finished(
    digits: Registry, monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    bare_versions(digits, 3)
    digits.move("staging", 1, None, "the first")

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(digits.history_of_aliases if interrupted == "finish" else digits.client, interrupted, killed)
        digits.move("staging", 2, 1, "better")
    monkeypatch.setattr(registry, "PATIENCE", 0.0)  # its author, this process, is not dead
    assert aliases_moved_to(digits) == [1, 2]
    assert digits.aliases() == {"staging": 2}
    digits.move("staging", 3, 2, "better still")
    assert aliases_moved_to(digits) == [1, 2, 3]


def test_an_alias_that_was_moved_by_hand_is_seen(digits: Registry) -> None:
    bare_versions(digits, 2)
    digits.move("staging", 1, None, "the first")
    digits.client.set_registered_model_alias("digits", "staging", "2")
    digits.client.set_registered_model_alias("digits", "mine", "1")
    assert [(move.alias, move.before, move.after, move.action) for move in digits.history()] == [
        ("staging", None, 1, "promote"),
        ("mine", None, 1, "seen"),
        ("staging", 1, 2, "seen"),
    ]
    digits.client.delete_registered_model_alias("digits", "mine")
    assert digits.history("mine")[-1].after is None
    assert len(digits.history()) == 4


def test_an_alias_that_was_taken_away_by_hand_goes_back_to_who_held_it_last(digits: Registry) -> None:
    bare_versions(digits, 2)
    digits.move("staging", 1, None, "the first")
    digits.move("staging", 2, 1, "better")
    digits.client.delete_registered_model_alias("digits", "staging")
    assert digits.rollback().after == 2, "what is undone is the removal"
    assert digits.rollback().after == 1
    with pytest.raises(UserError, match="no earlier version"):
        digits.rollback()


def test_a_version_that_was_given_its_alias_again_is_not_its_own_predecessor(digits: Registry) -> None:
    bare_versions(digits, 2)
    digits.move("staging", 1, None, "the first")
    digits.move("staging", 2, 1, "better")
    digits.client.delete_registered_model_alias("digits", "staging")
    digits.history()
    digits.move("staging", 2, None, "it was not meant to go")
    assert digits.rollback().after == 1 and digits.aliases() == {"staging": 1}
    with pytest.raises(UserError, match="no earlier version"):
        digits.rollback()


def test_long_evidence_is_kept_whole(digits: Registry, tracked: Path) -> None:
    bare_versions(digits, 1)
    evidence = {"long": "x" * 12_000, "fid": 3.0}
    digits.move("staging", 1, None, "the first", evidence)
    (move,) = Registry(tracked, "digits").history()
    assert (move.alias, move.after, move.evidence) == ("staging", 1, evidence)


def test_a_model_that_was_deleted_takes_its_history_with_it(digits: Registry) -> None:
    bare_versions(digits, 2)
    digits.move("staging", 2, None, "the first")
    digits.client.delete_registered_model("digits")
    bare_versions(digits, 2)
    assert digits.history() == []
    assert digits.aliases() == {}


def test_a_history_that_was_put_into_the_bin_comes_back(digits: Registry) -> None:
    bare_versions(digits, 2)
    digits.move("staging", 1, None, "the first")
    digits.client.delete_run(digits.client.get_registered_model("digits").tags["genforge.history"])
    digits.move("staging", 2, 1, "better")
    assert aliases_moved_to(digits) == [1, 2]
    digits.client.delete_experiment(digits.client.get_experiment_by_name("digits").experiment_id)
    assert digits.rollback().after == 1
    assert aliases_moved_to(digits) == [1, 2, 1]


def test_no_entry_can_be_written_over(digits: Registry) -> None:
    bare_versions(digits, 2)
    first = digits.move("staging", 1, None, "the first")
    with pytest.raises(Taken):
        digits.history_of_aliases.append(Move("staging", None, 2, "promote", "me too"), number=1)
    assert digits.history() == [first]


def test_going_back_to_a_version_by_its_number(digits: Registry) -> None:
    bare_versions(digits, 4)
    for number, before in ((1, None), (2, 1), (3, 2)):
        digits.move("staging", number, before, "better")
    moved = digits.rollback(to=1, reason="2 and 3 draw no sevens")
    assert (moved.before, moved.after, moved.action) == (3, 1, "rollback")
    assert "2 and 3 draw no sevens" in moved.reason
    for impossible in (1, 4, 9):  # holds it; never held it; does not exist
        with pytest.raises(UserError, match=f"cannot go back to version {impossible}"):
            digits.rollback(to=impossible)
    assert digits.aliases() == {"staging": 1}


def test_a_version_that_was_rolled_back_and_given_the_alias_again_is_gone_back_to(digits: Registry) -> None:
    bare_versions(digits, 4)
    for number, before in ((1, None), (2, 1), (3, 2)):
        digits.move("staging", number, before, "better")
    assert digits.rollback(to=1).after == 1
    assert digits.rollback(to=3, reason="1 was worse").after == 3
    digits.move("staging", 4, 3, "better")
    assert [digits.rollback().after, digits.rollback().after] == [3, 1]


def test_a_store_that_fails_half_way_leaves_a_move_that_is_finished_later(
    digits: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of which the store says nothing is not one that there is not."""
    from mlflow.exceptions import MlflowException

    bare_versions(digits, 2)
    digits.move("staging", 1, None, "the first")
    asked, get = [], digits.client.get_model_version

    def fails_the_second_time(name: str, number: str) -> Any:
        asked.append(number)
        if len(asked) == 2:  # the entry is written, and the alias is to follow
            raise MlflowException("the database is locked")
        return get(name, number)

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"digits/2 cannot be read from .*is locked"):
        patch.setattr(digits.client, "get_model_version", fails_the_second_time)
        digits.move("staging", 2, 1, "better")
    monkeypatch.setattr(registry, "PATIENCE", 0.0)  # its author, this process, is not dead
    assert aliases_moved_to(digits) == [1, 2]
    assert digits.aliases() == {"staging": 2}


def version(number: int, mean: float | None, protocol: str = "p-1", recipe: str = "gan") -> Version:
    scores = {} if mean is None else {f"genforge.scores.{protocol}": json.dumps({"fid": {"mean": mean, "std": 0.1}})}
    return Version(number, {"genforge.recipe": recipe, "genforge.protocol": protocol, **scores})


@pytest.mark.parametrize(
    ("candidate", "holder", "moves", "words"),
    [
        (version(2, 3.0), None, True, "is the first"),
        (version(2, 3.0), version(1, 4.0), True, "beats version 1 (gan) with 4.00 under p-1"),
        (version(2, 3.0), version(1, 2.0), False, "does not beat version 1 (gan) with 2.00 under p-1"),
        (version(2, 3.0), version(1, 3.0), False, "does not beat"),
        (version(2, 3.0), version(2, 3.0), False, "holds it already"),
        (version(2, math.nan), version(1, 4.0), False, "no finite FID"),
        (version(2, math.inf), None, False, "no finite FID"),
        (version(2, None), None, False, "no finite FID"),
        (version(2, 3.0), version(1, 1.0, "p-0"), True, "was judged by p-0 and cannot be by p-1: its files are gone"),
        (version(2, 3.0), version(1, math.nan), True, "takes over from version 1 (gan), whose FID there is nan"),
    ],
)
def test_who_should_hold_an_alias(candidate: Version, holder: Version | None, moves: bool, words: str) -> None:
    verdict = compare("fid", "p-1", candidate, holder, "its files are gone")
    assert verdict.moves == moves
    assert words in verdict.reason


def test_a_store_that_does_not_answer_is_told(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="does not answer") as error:
        Registry(tracked, "digits").aliases()
    assert "secret" not in str(error.value)


def test_an_address_that_is_no_store_is_told(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://here")
    with pytest.raises(UserError, match="nonsense://here"):
        Registry(tracked, "digits").aliases()


def test_a_registered_model_s_own_folder_is_brought_here_for_as_long_as_it_is_needed(
    digits: Registry, tmp_path: Path
) -> None:
    folder = trained_folder(tmp_path / "diffusion", "diffusion")
    version, _ = digits.register(folder, SCORES, "p-1", {})
    digits.move("staging", version.number, None, "the first")
    with registry.own_folder(digits.root, "models:/digits@staging") as brought:
        for file in ("model.json", "weights.safetensors"):
            assert (brought / file).read_bytes() == (folder / file).read_bytes()
    assert not brought.exists()
    with pytest.raises(UserError, match="nope not found"), registry.own_folder(digits.root, "models:/digits@nope"):
        raise AssertionError("there is no such model")
