"""How many cores a process takes for its own: what is said, what it is bound to, what its container may use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genforge.cores import CGROUPS, bound, cores, limit, quota
from genforge.settings import UserError

TOLD = "from genforge.cores import cores, quota; print(cores(), quota())"


def laid(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def own(root: Path, text: str) -> Path:
    (root / "own").write_text(text)
    return root / "own"


@pytest.mark.parametrize(
    ("files", "groups", "share"),
    [
        ({"cpu.max": "250000 100000\n"}, "0::/\n", 2.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 50000", "cpu.max": "max 100000"}, "0::/a/b\n", 3.0),
        ({"a/b/cpu.max": "100000 100000", "a/cpu.max": "400000 100000"}, "0::/a/b\n", 1.0),
        ({"cpu.max": "50000 100000"}, "0::/docker/not-seen-from-inside\n", 0.5),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/docker/abc\n", 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/\n", None),
        ({"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"}, "4:cpuset:/x\n", None),
        ({}, "0::/\n", None),
    ],
)
def test_a_quota_is_the_least_of_a_process_groups(
    files: dict[str, str], groups: str, share: float | None, tmp_path: Path
) -> None:
    assert quota(laid(tmp_path, files), own(tmp_path, groups)) == share


def test_where_nothing_is_told_there_is_no_quota(tmp_path: Path) -> None:
    assert quota(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("share", "threads"), [(0.5, 1), (1.9, 1), (2.5, 2), (7.9, 7), (8.0, None), (1e6, None), (None, None)]
)
def test_a_quota_below_all_cores_is_rounded_down(
    share: float | None, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GENFORGE_THREADS", raising=False)
    monkeypatch.setattr("genforge.cores.quota", lambda: share)
    monkeypatch.setattr("genforge.cores.bound", lambda: 8)
    assert limit() == threads
    assert cores() == (threads or 8)


def test_what_is_said_stands_above_a_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genforge.cores.quota", lambda: 2.0)
    monkeypatch.setenv("GENFORGE_THREADS", "7")
    assert cores() == 7


@pytest.mark.parametrize("said", ["0", "-2", "many", "1.5", "²"])
def test_a_number_that_is_none_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENFORGE_THREADS", said)
    with pytest.raises(UserError, match=f"GENFORGE_THREADS is '{said}'; it should be a number"):
        cores()
    told = subprocess.run([sys.executable, "-m", "genforge.cli", "recipes"], capture_output=True, text=True)
    assert told.returncode == 2 and "GENFORGE_THREADS" in told.stderr and "Traceback" not in told.stderr


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of this test, of the first version, where the kernel has them and lets us make one."""
    folder = CGROUPS / "cpu" / f"genforge-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield folder
    folder.rmdir()


def test_a_process_in_a_real_group_takes_what_its_quota_pays_for(group: Path) -> None:
    (group / "cpu.cfs_quota_us").write_text("150000")
    environment = {name: value for name, value in os.environ.items() if name != "GENFORGE_THREADS"}
    joined = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0'); {TOLD}"
    told = subprocess.run([sys.executable, "-c", joined], env=environment, capture_output=True, text=True, check=True)
    expected = 1 if bound() > 1 else bound()
    assert told.stdout.split() == [str(expected), "1.5"]
