"""The doctor: what it finds it tells, without --fix it changes nothing, and with it only what can be mended is."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from genforge import cli
from genforge.catalog import build_objective, resolve
from genforge.contracts import ImageShape
from genforge.data import loading
from genforge.leftovers import Leftover
from genforge.settings import UserError
from genforge.steps import doctor, environment
from genforge.steps.project import Project
from genforge.training.checkpoint import Checkpoints
from genforge.training.loop import TrainingSettings, train
from tests.networks.network_cases import some_pixels


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text("recipes: {box: {from: box}}\n")
    (tmp_path / ".dvc").mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> dict[str, doctor.Finder]:
    """The rooms that are asked; empty until a test puts its own in."""
    found: dict[str, doctor.Finder] = {}
    monkeypatch.setattr(doctor, "finders", lambda: found)
    return found


def crumbs(root: Path) -> Iterator[Leftover]:
    """A room whose dead leave `*.crumb` files; those that are folders cannot be mended."""
    for path in sorted(root.glob("*.crumb")):
        yield Leftover("crumb", path.name, "nobody's", "delete it", lambda path=path: remove(path))


def remove(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path.name} is too big a crumb")
    path.unlink(missing_ok=True)


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `genforge doctor`."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(["doctor", *arguments])
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def test_a_healthy_project_is_told_to_be(project: Path, rooms: dict[str, doctor.Finder]) -> None:
    rooms["kitchen"] = crumbs
    status, out, _ = run()
    assert status == 0
    assert out.rstrip().endswith("nothing is wrong")


def test_without_fix_nothing_changes(project: Path, rooms: dict[str, doctor.Finder]) -> None:
    rooms["kitchen"] = crumbs
    (project / "a.crumb").touch()
    before = snapshot(project)
    status, out, _ = run()
    assert status == 1
    assert all(word in out for word in ("crumb", "a.crumb", "nobody's", "delete it", "--fix"))
    assert snapshot(project) == before


def test_fix_tells_then_mends_one_after_the_other(project: Path, rooms: dict[str, doctor.Finder]) -> None:
    rooms["kitchen"] = crumbs
    (project / "a.crumb").touch()
    (project / "b.crumb").touch()
    status, out, err = run("--fix")
    assert status == 0
    assert err.index("crumb a.crumb: delete it") < err.index("crumb b.crumb: delete it")
    assert "2 mended" in out
    assert not list(project.glob("*.crumb"))
    assert run()[0] == 0


def test_what_cannot_be_mended_is_told_and_the_rest_is_mended(project: Path, rooms: dict[str, doctor.Finder]) -> None:
    rooms["kitchen"] = crumbs
    (project / "a.crumb").mkdir()
    (project / "b.crumb").touch()
    status, out, err = run("--fix", "--json")
    told = json.loads(out)
    assert (status, told["healthy"]) == (1, False)
    assert [(row["place"], row["outcome"]) for row in told["findings"]] == [
        ("a.crumb", "not mended"),
        ("b.crumb", "mended"),
    ]
    assert "too big" in told["findings"][0]["problem"]
    assert "too big" in err


def test_a_remedy_that_does_not_help_is_found_out(project: Path, rooms: dict[str, doctor.Finder]) -> None:
    rooms["kitchen"] = lambda root: iter([Leftover("stain", "table", "red wine", "wipe", lambda: None)])
    status, out, _ = run("--fix", "--json")
    (row,) = json.loads(out)["findings"]
    assert (status, row["outcome"], row["problem"]) == (1, "not mended", "it is still there")


def test_what_comes_to_light_by_mending_is_mended_too(project: Path, rooms: dict[str, doctor.Finder]) -> None:
    def beneath(root: Path) -> Iterator[Leftover]:
        if (root / "carpet").exists():
            yield Leftover("carpet", "carpet", "dusty", "lift it", (root / "carpet").unlink)
        elif (root / "dust").exists():
            yield Leftover("dust", "dust", "beneath a carpet", "sweep it", (root / "dust").unlink)

    rooms["hall"] = beneath
    (project / "carpet").touch()
    (project / "dust").touch()
    status, out, _ = run("--fix", "--json")
    assert status == 0
    assert [row["outcome"] for row in json.loads(out)["findings"]] == ["mended", "mended"]


def test_a_room_that_cannot_look_leaves_the_others_theirs(project: Path, rooms: dict[str, doctor.Finder]) -> None:
    def away(root: Path) -> Iterator[Leftover]:
        raise UserError("the store does not answer")
        yield

    rooms |= {"store": away, "kitchen": crumbs}
    (project / "a.crumb").touch()
    status, out, _ = run("--fix", "--json")
    told = json.loads(out)
    assert (status, told["blind"]) == (1, {"store": "the store does not answer"})
    assert not (project / "a.crumb").exists()


def test_a_folder_that_is_no_project_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run()
    assert status == 2 and "params.yaml" in err


def test_a_wrong_setting_is_the_users_to_mend(project: Path, rooms: dict[str, doctor.Finder]) -> None:
    (project / "params.yaml").write_text("sead: 1\nrecipes: {box: {from: box}}\n")
    status, out, _ = run("--fix")
    assert status == 1 and "did you mean `seed`" in out and "only you can mend" in out


def test_versions_known_to_break_others_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.packages().verdict == "fine"
    installed = environment.metadata.version
    broken = {"fastapi": "0.165.0", "sqlalchemy": "2.1.0"}
    monkeypatch.setattr(environment.metadata, "version", lambda name: broken.get(name, installed(name)))
    check = environment.packages()
    assert check.verdict == "wrong"
    assert "fastapi is 0.165.0" in check.text and "sqlalchemy is 2.1.0" in check.text
    assert "torch" not in check.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_nobody_can_write_to_is_wrong(project: Path) -> None:
    (project / "results").mkdir(mode=0o500)
    check = environment.folders(project)
    assert check.verdict == "wrong" and "results" in check.text


def test_a_project_outside_of_a_git_repository_is_told_since_dvc_runs_nothing_there(
    project: Path, rooms: dict[str, doctor.Finder]
) -> None:
    shutil.rmtree(project / ".git")
    status, out, _ = run()
    assert status == 1 and "1 things are wrong that only you can mend" in out
    check = environment.git(project)
    assert check.verdict == "wrong" and "`git init`" in check.text and "core.no_scm" in check.text
    (project / ".dvc" / "config").write_text("[core]\nno_scm = true\n")
    assert environment.git(project).verdict == "note"


def test_git_that_is_not_there_is_told_with_what_is_lost_without_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = environment.git(project)
    assert check.verdict == "note" and "no commit" in check.text  # none is made yet
    author = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}
    subprocess.run(
        ["git", "commit", "--quiet", "--allow-empty", "-m", "first"], check=True, env={**os.environ, **author}
    )
    assert environment.git(project).verdict == "fine"
    monkeypatch.setenv("PATH", str(project))
    check = environment.git(project)
    assert check.verdict == "wrong"
    assert all(words in check.text for words in ("not on PATH", "without the commit", "make schedule", "install it"))


def test_a_remote_is_a_note(project: Path) -> None:
    assert "no remote" in environment.remote(project).text
    (project / ".dvc" / "config").write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = /tmp/store\n")
    check = environment.remote(project)
    assert (check.verdict, "default store" in check.text) == ("note", True)


@pytest.mark.parametrize("name", ["vae", "hinge-sngan", "ddpm"])
def test_checkpoints_take_no_more_than_is_reckoned_with(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (project / "params.yaml").write_text(f"search: {{trials: 0}}\nrecipes: {{it: {{from: {name}}}}}\n")
    data = some_pixels(ImageShape(1, 8, 8))
    prepared = SimpleNamespace(shape=data.shape, classes=[])
    monkeypatch.setattr(loading.Prepared, "open", classmethod(lambda cls, folder: prepared))
    reckoned = environment.checkpoint_bytes(Project.load(project))

    checkpoints = Checkpoints(project / ".genforge" / "checkpoints" / "it")
    settings = TrainingSettings(steps=2, batch_size=4, checkpoint_every=1)
    train(build_objective(resolve("it", {"from": name}), data.shape, 0), data, settings, checkpoints=checkpoints)
    kept = sum(path.stat().st_size for path in checkpoints.folder.rglob("*") if path.is_file())
    assert kept <= reckoned <= 2.5 * kept  # two are kept, three are reckoned with

    free = environment.LEAST_FREE + reckoned - kept
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert environment.disk(Project.load(project)).verdict == "fine"
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=free - 1))
    check = environment.disk(Project.load(project))
    assert check.verdict == "wrong" and "make room" in check.text
