"""A step that uses a device holds a slot of it; a supervisor, which only tells its workers, holds none."""

from __future__ import annotations

from pathlib import Path

import pytest

from genforge import slots
from genforge.locks import Lock
from genforge.steps.project import Project


@pytest.mark.parametrize(("device", "held"), [("auto", True), ("cpu", False)])
def test_a_step_takes_a_slot_before_it_asks_for_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, held: bool
) -> None:
    (tmp_path / "params.yaml").write_text(f"device: {device}\nrecipes: {{box: {{from: box}}}}\n")
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # put back at the end: the slot sets them
        monkeypatch.delenv(name)
    monkeypatch.setenv(slots.DEVICES, "3")
    monkeypatch.setenv(slots.FOLDER, str(tmp_path))
    monkeypatch.setattr(slots, "_listed", lambda: ())
    monkeypatch.setattr(slots, "_own", None)
    lock = Lock(tmp_path / "device-3-0.lock")
    project = Project.load(tmp_path)
    assert project.device_of_workers in ("cpu", "cuda") and not lock.is_held()
    assert project.device in ("cpu", "cuda")
    assert lock.is_held() is held
    if slots._own is not None:
        slots._own.release()
