"""Plans name `toy_search`, so this folder is on the path: of the tests here, and of the workers that they start.

Whatever is said of a search is true on every storage: a test that takes `storage` runs on each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from genforge.search.storage import STORAGE_VARIABLE
from tests.postgresql import PostgreSQL

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _toys_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)


@pytest.fixture(params=["journal", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty storage, named as a user names it. Its kind: `journal` or `postgresql`; `sqlite` where a test asks."""
    kind: str = request.param
    if kind == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        monkeypatch.setenv(STORAGE_VARIABLE, server.database())
    elif kind == "sqlite":
        monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'trials.db'}")
    return kind
