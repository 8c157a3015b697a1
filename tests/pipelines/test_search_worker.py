"""What `python -m pipelines.search_worker` says where it cannot ask anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import search_worker


@pytest.mark.parametrize(
    ("recipe", "variables", "told"),
    [
        ("boxes", {}, "box"),  # the nearest valid name
        ("box", {}, "GENFORGE_OPTUNA_STORAGE should name the PostgreSQL database"),
        ("box", {"GENFORGE_OPTUNA_STORAGE": "postgresql://127.0.0.1/trials"}, "PREFECT_API_URL should name the server"),
    ],
)
def test_what_is_missing_is_told_before_anybody_is_asked(
    recipe: str,
    variables: dict[str, str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "params.yaml").write_text("recipes: {box: {from: box}}\n")
    monkeypatch.chdir(tmp_path)
    for name in ("GENFORGE_OPTUNA_STORAGE", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(search_worker, "ask", lambda *_: pytest.fail("somebody was asked"))
    assert search_worker.main([recipe]) == 2
    assert told in capsys.readouterr().err
