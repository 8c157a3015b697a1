"""What a user may get wrong about Prefect is told before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from genforge.settings import UserError
from pipelines.server import api
from pipelines.stages import Processes


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "nonsense"])
def test_a_server_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(UserError, match="PREFECT_API_URL"), api(tmp_path, Processes()):
        pass
