"""A short campaign: one recipe, its search and its training, struck every other second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent / "campaign.py"


@pytest.mark.slow
def test_a_short_campaign_loses_nothing(new_store: Path) -> None:
    command = [sys.executable, str(CAMPAIGN), "--short", "--minutes", "0.1", "--pace", "1.2", "--seed", "3"]
    command += ["--store", str(new_store)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout
    assert "lost: nothing" in done.stdout
