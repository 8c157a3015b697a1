"""Many promote at once, on one machine or on several, and some are killed: one order of events, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from genforge.registry import leftovers
from genforge.registry.registry import Registry
from tests.disasters import in_child
from tests.registry.promoters import forget_connections, promote_together
from tests.trained_models import trained_folder

PROMOTERS = int(os.environ.get("GENFORGE_TEST_PROMOTERS", "8"))  # each waits for all the others: 50 take a machine


def promote_at_once(root: Path, promoters: list[str], machines: bool = False) -> dict[int, int]:
    """Exit codes of the promoters, of which number i, counted from 1, promotes version i."""
    digits = Registry(root, "digits")
    digits.history_of_aliases.make_model()
    for _ in promoters:
        digits.client.create_model_version("digits", (root / "nothing").as_uri())
    answer = root / "ends.json"
    assert in_child(lambda: promote_together(root, promoters, machines, answer)) == 0
    ends = {int(version): code for version, code in json.loads(answer.read_text()).items()}
    assert set(ends.values()) <= {0, -signal.SIGKILL}
    return ends


def assert_one_order_of_events(digits: Registry) -> list[int | None]:
    """Returns the versions in the order in which they held the alias."""
    moves = digits.history("staging")
    assert [move.number for move in moves] == list(range(1, len(moves) + 1))
    assert [move.before for move in moves] == [None, *(move.after for move in moves[:-1])]
    assert {move.action for move in moves} == {"promote"}
    assert digits.aliases()["staging"] == moves[-1].after
    return [move.after for move in moves]


@pytest.mark.slow
def test_promoters_of_many_machines_make_one_order_of_events(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a folder, and so a lock, of its own, as machines have that share a store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked / 'mlflow.db'}")
    ends = promote_at_once(tracked, [""] * PROMOTERS, machines=True)
    assert set(ends.values()) == {0}
    held = assert_one_order_of_events(Registry(tracked, "digits"))
    assert sorted(version or 0 for version in held) == list(range(1, PROMOTERS + 1))


def test_promoters_that_are_killed_inside_their_move_lose_nothing(tracked: Path) -> None:
    places = ["before the entry", "between entry and alias", "after the alias"]
    ends = promote_at_once(tracked, [*places, "", "", *places, ""])
    assert [ends[version] for version in (4, 5, 9)] == [0, 0, 0]
    assert [ends[version] for version in (1, 2, 3, 6, 7, 8)] == [-signal.SIGKILL] * 6
    held = assert_one_order_of_events(Registry(tracked, "digits"))
    assert {2, 3, 7, 8} | {4, 5, 9} == set(held)  # an entry that was written is a move that was made


@pytest.mark.parametrize("place", ["between entry and alias", "after the alias"])
def test_the_doctor_finds_and_finishes_a_move_that_was_cut(tracked: Path, place: str) -> None:
    assert list(leftovers.find(tracked)) == []
    promote_at_once(tracked, [place])
    digits = Registry(tracked, "digits")
    assert digits.aliases() == ({} if place == "between entry and alias" else {"staging": 1})
    (found,) = leftovers.find(tracked)
    assert (found.kind, found.place, found.remedy) == ("alias", "digits@staging", "finish that move")
    found.mend()
    assert digits.aliases() == {"staging": 1}
    assert list(leftovers.find(tracked)) == []
    found.mend()  # mended already
    assert assert_one_order_of_events(digits) == [1]


def test_the_doctor_writes_down_a_move_by_hand(tracked: Path) -> None:
    promote_at_once(tracked, [""])
    digits = Registry(tracked, "digits")
    digits.client.create_model_version("digits", (tracked / "nothing").as_uri())
    digits.client.set_registered_model_alias("digits", "staging", "2")
    digits.client.set_registered_model_alias("digits", "mine", "1")
    found = {leftover.place: leftover for leftover in leftovers.find(tracked)}
    assert set(found) == {"digits@staging", "digits@mine"}
    assert "moved by hand" in found["digits@staging"].remedy
    for leftover in found.values():
        leftover.mend()
    assert list(leftovers.find(tracked)) == []
    assert [move.action for move in digits.history()] == ["promote", "seen", "seen"]


@pytest.mark.parametrize("place", ["log_model_artifacts", "create_model_version"])
def test_the_doctor_finds_half_a_version(tracked: Path, place: str) -> None:
    folder = trained_folder(tracked / "gan", "gan")

    def killed(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def register() -> None:
        forget_connections()
        registry = Registry(tracked, "digits")
        setattr(registry.client, place, killed)
        registry.register(folder, {"fid": {"mean": 3.0, "std": 0.1}}, "p-1", {})

    assert in_child(register) == -signal.SIGKILL
    found = list(leftovers.find(tracked))
    kinds = ["folder"] * (place == "log_model_artifacts") + ["half a version"]
    assert [leftover.kind for leftover in found] == kinds
    for leftover in found:
        leftover.mend()
        leftover.mend()
    assert list(leftovers.find(tracked)) == []
    digits = Registry(tracked, "digits")
    version, is_new = digits.register(folder, {"fid": {"mean": 3.0, "std": 0.1}}, "p-1", {})
    assert (version.number, is_new) == (1, True)
    assert list(leftovers.find(tracked)) == []  # what is whole is left alone
