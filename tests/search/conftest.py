"""Plans name `toy_search`, so this folder is on the path: of the tests here, and of the workers that they start."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
