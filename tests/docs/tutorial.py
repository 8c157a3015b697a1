"""docs/tutorial.md as a reader follows it: commands in their order, and the file that is written on the way."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
TRIED_ELSEWHERE = {  # command to the test that shows what it does
    "make install": "a fresh clone",
    ". .venv/bin/activate": "a fresh clone",
    "genforge ui": "tests/tracking/test_ui.py",
    'genforge rollback --reason "cornflowers can wait"': "tests/pipelines/test_servers.py, tests/steps/test_aliases.py",
    "make schedule": "tests/pipelines/test_schedule.py, test_retrain_apart.py",
}


def commands(section: str) -> list[str]:
    """Lines of the blocks without a language under a heading such as `3. Run`, without comments."""
    text = f"{PAGE.read_text()}\n## "
    found = re.search(rf"^## {re.escape(section)}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert found, section
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", found[1], re.MULTILINE | re.DOTALL)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def script() -> str:
    """What the reader saves as `flowers.py`."""
    (text,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(text)
