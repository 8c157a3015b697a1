"""A database that is away for a moment changes nothing; one that stays away is told."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from genforge.search import patience
from genforge.search.patience import STORAGE_VARIABLE, Patience, StorageAway
from genforge.search.storage import Store
from genforge.settings import UserError


def away() -> StorageInternalError:
    error = StorageInternalError("away")
    error.__cause__ = sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("refused"))
    return error


def test_what_fails_for_a_moment_is_done_again() -> None:
    failures = [away(), sqlalchemy.exc.PendingRollbackError(), sqlalchemy.exc.InterfaceError("", {}, Exception())]

    def operation() -> int:
        if failures:
            raise failures.pop()
        return 7

    assert Patience(60.0).call(operation) == 7


def test_patience_ends_and_says_what_to_do(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS_BEFORE_A_WORD", 0.1)

    def operation() -> None:
        raise away()

    with pytest.raises(StorageAway, match=r"does not answer.*run again when it is back"):
        Patience(0.3).call(operation)
    assert capfd.readouterr().err.count("is away (OperationalError)") == 1


def test_a_mistake_of_ours_is_not_waited_for() -> None:
    with pytest.raises(KeyError):
        Patience(600.0).call(lambda: {}["no such study"])


@pytest.mark.parametrize("storage", ["postgresql", "sqlite"], indirect=True)
def test_an_answer_that_was_lost_is_not_taken_for_anothers(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=Store(tmp_path).storage)
    done, taken = study.ask()._trial_id, study.ask()._trial_id
    plain, lost = RDBStorage.set_trial_state_values, [True, True]

    def without_answer(
        self: RDBStorage, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        answer = plain(self, trial_id, state, values)
        if lost and lost.pop():
            raise away()
        return answer

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", without_answer)
    assert study._storage.set_trial_state_values(done, TrialState.COMPLETE, [0.5])
    assert study.best_value == 0.5
    plain(Store(tmp_path).storage, taken, TrialState.FAIL)  # type: ignore[arg-type]
    with pytest.raises(UpdateFinishedTrialError):
        study._storage.set_trial_state_values(taken, TrialState.COMPLETE, [0.1])


def test_a_server_out_of_reach_is_told_without_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        monkeypatch.setenv(STORAGE_VARIABLE, f"postgresql+psycopg2://user:hunter2@127.0.0.1:{port}/trials")
        with pytest.raises(UserError, match="cannot open this storage") as caught:
            Store(tmp_path)
    assert "hunter2" not in str(caught.value)


def test_what_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("sqlite://", "mysql://user@host/trials", "nonsense"):
        monkeypatch.setenv(STORAGE_VARIABLE, url)
        with pytest.raises(UserError, match=STORAGE_VARIABLE):
            Store(tmp_path)
