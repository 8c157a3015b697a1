"""What runs when, and the story of a schedule on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines import scheduled_story


@pytest.mark.slow
def test_new_images_are_retrained_staged_and_taken_back_and_no_change_is_no_work(tmp_path: Path) -> None:
    scheduled_story.tell(tmp_path, scheduled_story.serve_here, {})
