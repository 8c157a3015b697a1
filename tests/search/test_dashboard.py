"""All searches of a project are one storage for Optuna's tools, which may look and change nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from genforge.search.dashboard import looking_only
from genforge.search.storage import STORAGE_VARIABLE, open_journal
from genforge.search.view import ReadOnly, SearchView


def search(root: Path, recipe: str, trials: int) -> None:
    """A finished search, as its workers leave it: the worst trial first."""
    folder = root / ".genforge" / "search" / recipe / "c0ffee"
    folder.mkdir(parents=True)
    study = optuna.create_study(storage=open_journal(folder / "journal.log"), study_name=f"{recipe}/c0ffee")
    for number in range(trials):
        trial = study.ask()
        trial.suggest_float("rate", 0.0, 1.0)
        trial.report(10.0 * trials - number, step=1)
        study.tell(trial, 10.0 * trials - number)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    search(tmp_path, "gan", 3)
    search(tmp_path, "vae", 2)
    return tmp_path


def test_every_journal_is_a_study_with_its_own_trials(root: Path) -> None:
    view = SearchView(root)
    studies = {study.study_name: study._study_id for study in view.get_all_studies()}
    assert set(studies) == {"gan/c0ffee", "vae/c0ffee"} and len(set(studies.values())) == 2
    numbers = {name: [trial.number for trial in view.get_all_trials(study)] for name, study in studies.items()}
    assert numbers == {"gan/c0ffee": [0, 1, 2], "vae/c0ffee": [0, 1]}
    assert view.get_best_trial(studies["gan/c0ffee"]).value == 28.0
    trials = [trial for study in studies.values() for trial in view.get_all_trials(study)]
    assert len({trial._trial_id for trial in trials}) == 5
    assert [view.get_trial(trial._trial_id) for trial in trials] == trials


def test_optunas_own_study_opens_on_it(root: Path) -> None:
    study = optuna.load_study(storage=SearchView(root), study_name="vae/c0ffee")
    assert study.best_value == 19.0
    assert [trial.intermediate_values for trial in study.trials] == [{1: 20.0}, {1: 19.0}]


def test_a_search_that_begins_later_appears(root: Path) -> None:
    view = SearchView(root)
    before = {study.study_name: study._study_id for study in view.get_all_studies()}
    search(root, "diffusion", 1)  # sorts before the others, whose ids stay
    after = {study.study_name: study._study_id for study in view.get_all_studies()}
    assert set(after) == {"diffusion/c0ffee", *before}
    assert {name: after[name] for name in before} == before


def test_nothing_can_be_changed(root: Path) -> None:
    view = SearchView(root)
    journals = {path: path.read_bytes() for path in root.rglob("journal.log")}
    study = view.get_all_studies()[0]._study_id
    with pytest.raises(ReadOnly):
        view.delete_study(study)
    with pytest.raises(ReadOnly):
        optuna.load_study(storage=view, study_name="gan/c0ffee").ask()
    assert {path: path.read_bytes() for path in root.rglob("journal.log")} == journals


def asked(application: Any, path: str, method: str = "GET", host: str = "127.0.0.1:5001") -> tuple[str, bytes]:
    """Status and body."""
    told: list[str] = []
    environment = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_HOST": host, "SERVER_NAME": "x",
                   "SERVER_PORT": "80", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(),
                   "wsgi.url_scheme": "http"}  # fmt: skip
    body = b"".join(application(environment, lambda status, headers, *rest: told.append(status)))
    return told[0], body


@pytest.mark.parametrize(
    ("method", "host"),
    [
        ("DELETE", "localhost"),
        ("POST", "localhost"),
        ("PUT", "127.0.0.1"),
        ("GET", "evil.example"),
        ("GET", "10.0.0.1"),
    ],
)
def test_who_would_change_something_or_comes_by_another_name_is_refused(method: str, host: str) -> None:
    def reached(*arguments: object) -> list[bytes]:
        raise AssertionError("the dashboard was reached")

    assert asked(looking_only(reached), "/api/studies/1", method, host)[0] == "403 Forbidden"


def test_the_dashboard_shows_the_searches(root: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed here")
    application = looking_only(dashboard.wsgi(SearchView(root)))
    status, body = asked(application, "/api/studies")
    assert status.startswith("200")
    studies = {study["study_name"]: study["study_id"] for study in json.loads(body)["study_summaries"]}
    assert set(studies) == {"gan/c0ffee", "vae/c0ffee"}
    _, body = asked(application, f"/api/studies/{studies['vae/c0ffee']}")
    assert [trial["values"] for trial in json.loads(body)["trials"]] == [[20.0], [19.0]]
