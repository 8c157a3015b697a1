"""A step takes no more threads than it is told, whatever was imported before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import numpy, torch
from threadpoolctl import threadpool_info
from genforge.steps.project import Project
Project.load().use_threads()
print(torch.get_num_threads(), *{pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
"""


def test_numpy_and_torch_take_as_many_threads_as_the_flow_says(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipes: {box: {from: box}}\n")
    environment = {**os.environ, "GENFORGE_THREADS": "1", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert told.stdout.split() == ["1", "1"], told.stderr
