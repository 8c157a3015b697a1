"""The same over PostgreSQL: a database that several machines come to at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from genforge.tracking import mlflow_store, replay
from genforge.tracking import runs as tracking
from genforge.tracking.run_log import RunLog, runs_folder
from tests.postgresql import PostgreSQL, running
from tests.tracking.stories import check_whole, stored, tell
from tests.tracking.test_mlflow_servers import all_complete, start_together
from tests.tracking.test_uploader import exactly_once

pytestmark = pytest.mark.slow


def test_on_an_empty_database_and_wherever_the_uploader_is_killed(
    tracked: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgresql.database())
    start_together(tracked, [str(number) for number in range(16)])
    client = mlflow_store.connect(tracked)
    all_complete(client, 16)
    monkeypatch.setattr(replay, "POINTS", 6)
    exactly_once(tracked, client, after=True, place_is_lost=True, every=3)


def test_a_database_that_is_killed_is_a_store_that_is_away(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.database())
        with tracking.run(tracked, "train", "gan", {"a": {"b": 1}}) as run:
            run.metrics(0, {"loss": 1.0})
            assert tracking.upload_all(tracked).left == {}
            server.kill()
            run.metrics(1, {"loss": 2.0})
        early, late = RunLog(runs_folder(tracked) / run.id), tell(tracked)
        left = tracking.upload_all(tracked, patience=0.5).left
        assert set(left) <= {early.id, late.id}
        assert left
        assert not any("://" in reason and "@" in reason for reason in left.values())  # no password is told
        server.start()
        assert tracking.upload_all(tracked).left == {}
        client = mlflow_store.connect(tracked)
        assert stored(client, early).info.status == "FINISHED"
        check_whole(client, late)
