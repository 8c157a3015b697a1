"""What docs/tutorial.md shows is valid and tried. Its commands are followed by tests/pipelines/test_story.py."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from genforge.catalog import resolve_all
from genforge.config import Config
from genforge.steps import preset
from tests.docs import tutorial

STORY = (Path(__file__).parents[1] / "pipelines" / "test_story.py").read_text()
BY_HAND = ("git ", "python flowers.py ")


def test_every_section_is_followed_or_tried_elsewhere() -> None:
    sections = re.findall(r"^## (.*)$", tutorial.PAGE.read_text(), re.MULTILINE)
    assert len(sections) >= 7
    followed = {command for section in sections if f'"{section}"' in STORY for command in tutorial.commands(section)}
    shown = {command for section in sections for command in tutorial.commands(section)}
    left = shown - followed - tutorial.TRIED_ELSEWHERE.keys()
    assert len(followed) > 15 and all(command.startswith(BY_HAND) for command in left), left


def test_the_settings_that_a_reader_writes_are_valid() -> None:
    values = yaml.safe_load(preset.render("my-images", "cpu"))
    blocks = re.findall(r"^```yaml\n(.*?)^```$", tutorial.PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        values |= yaml.safe_load(block)
    config = Config.read(values, "")
    assert resolve_all(config.recipes).keys() == {"gan", "vae", "gaussian"}
    assert (config.schedule.cron, config.schedule.on_data) == (None, 60)
