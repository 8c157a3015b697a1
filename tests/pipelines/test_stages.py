"""Stages are read from DVC's own graph and run by DVC, each in a process group that ends with its owner."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from genforge.imports import closure
from genforge.settings import UserError
from genforge.steps import code
from pipelines.stages import Graph, Processes, StageFailed, run_stage

ROOT = Path(__file__).parents[2]
PIPELINE = """
stages:
  first:
    cmd: echo one > first.txt
    outs: [first.txt]
  second:
    cmd: {command}
    deps: [first.txt]
    outs: [second.txt]
  other:
    cmd: echo other > other.txt
    outs: [other.txt]
"""


def make_project(folder: Path, command: str = "cp first.txt second.txt") -> Path:
    (folder / "dvc.yaml").write_text(PIPELINE.replace("{command}", command))
    (folder / "params.yaml").write_text("seed: 0\n")
    return folder


def run(stage: str, folder: Path) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = []
    run_stage(stage, folder, {}, Processes(), lambda _, message: messages.append(message))
    return messages


def test_graph_is_dvcs_own_and_stale_stages_are_those_that_dvc_would_run(blank: Path) -> None:
    folder = make_project(blank)
    graph = Graph.read(folder)
    assert graph.needs == {"first": frozenset(), "second": frozenset({"first"}), "other": frozenset()}
    assert graph.order.index("first") < graph.order.index("second")
    assert graph.stale == {"first", "second", "other"}

    for stage in graph.order:
        run(stage, folder)
    assert Graph.read(folder).stale == frozenset()

    (folder / "first.txt").write_text("changed by hand\n")
    assert Graph.read(folder).stale == {"first", "second"}


def test_a_step_speaks_through_its_channel_and_nothing_is_lost(blank: Path) -> None:
    program = "import genforge.progress as p; [p.say(str(i)) for i in range(500)]; open('second.txt','w').close()"
    folder = make_project(blank, f'{sys.executable} -c "{program}"')
    run("first", folder)
    assert [message["text"] for message in run("second", folder)] == [str(i) for i in range(500)]


def test_a_users_mistake_is_told_in_its_own_words(blank: Path) -> None:
    folder = make_project(blank, f"{sys.executable} -m genforge.cli step resolve")
    run("first", folder)
    (folder / "params.yaml").write_text("seed: -4\nrecipes: {a: {from: box}}\n")
    with pytest.raises(StageFailed) as caught:
        run("second", folder)
    assert caught.value.mistake and not caught.value.passing
    assert "seed: -4 is wrong" in caught.value.reason


def test_an_unexpected_failure_shows_the_end_of_its_log(blank: Path) -> None:
    folder = make_project(blank, f"{sys.executable} -c 'raise RuntimeError(chr(66)*5)'")
    run("first", folder)
    with pytest.raises(StageFailed, match="BBBBB") as caught:
        run("second", folder)
    assert not caught.value.mistake and not caught.value.passing


def test_a_broken_pipeline_file_is_a_users_mistake(blank: Path) -> None:
    folder = make_project(blank)
    (folder / "dvc.yaml").write_text("stages: [unfinished\n")
    with pytest.raises(UserError, match=r"dvc\.yaml"):
        Graph.read(folder)


def test_a_folder_without_git_is_told_what_to_do(blank: Path) -> None:
    folder = make_project(blank)
    (folder / ".git").rename(folder / "not-git")  # as in an archive that was downloaded
    with pytest.raises(UserError, match=r"is not a git repository; .* `git init`"):
        Graph.read(folder)


def test_a_table_of_locks_that_was_cut_off_is_no_hindrance(blank: Path) -> None:
    folder = make_project(blank)
    (folder / ".dvc" / "tmp").mkdir(exist_ok=True)
    (folder / ".dvc" / "tmp" / "rwlock").write_text('{"write": {"/a": {"pi')
    assert Graph.read(folder).stale == {"first", "second", "other"}
    run("first", folder)


@pytest.mark.parametrize("name", [b"dangling.png", b"\xff.png"])
def test_a_file_that_dvc_cannot_take_is_a_users_mistake(blank: Path, name: bytes) -> None:
    folder = make_project(blank)
    (folder / "dvc.yaml").write_text("stages: {a: {cmd: touch b, deps: [images], outs: [b]}}\n")
    (folder / "images").mkdir()
    link = folder / "images" / os.fsdecode(name)
    link.symlink_to("nowhere" if name[0] < 128 else "../dvc.yaml")
    with pytest.raises(UserError, match="remove that file"):
        Graph.read(folder)


def test_stages_depend_on_the_code_that_decides_what_they_make() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "src/genforge" in stages.pop("resolve")["deps"]  # it writes the digests
    for name, entry in stages.items():
        stage = entry.get("do", entry)
        if name in code.STAGES:
            assert f"results/code/{name}.json" in stage["deps"]
            continue
        watched = tuple(dep for dep in stage["deps"] if dep.startswith("src/"))
        for path in closure([f"genforge.steps.{name}"]).values():
            if path.parent.name == "data" and path.name != "__init__.py":
                assert path.relative_to(ROOT).as_posix().startswith(watched), (
                    f"{name} uses {path} and does not watch it"
                )


def test_keys_that_dvc_watches_are_asked_for_with_their_defaults(blank: Path) -> None:
    folder = make_project(blank)
    shutil.copy(ROOT / "dvc.yaml", folder / "dvc.yaml")
    (folder / "params.yaml").write_text("data: {name: mine}\nrecipes: {box: {from: box}}\n")
    with pytest.raises(UserError) as caught:
        Graph.read(folder)
    for line in (
        "seed: 0",
        'data.folder: "data/incoming"',
        'evaluation: {"images": 500, "seeds": [0, 1, 2], "batch_size": 250, "metrics": null, '
        '"likelihood_images": 1000, "fid_infinity": false, "collapse_duplicates": 0.25, "collapse_classes": 0.2, '
        '"collapse_spread": 0.4}',
        'registry.metric: "fid"',
    ):
        assert f"  {line}\n" in f"{caught.value}\n"
    assert "recipes:" not in str(caught.value)


def test_ending_the_pipeline_leaves_no_process_of_a_stage_behind(blank: Path) -> None:
    folder = make_project(blank, "echo $$ > pid.txt; sleep 600; touch second.txt")
    run("first", folder)
    processes = Processes()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run_stage("second", folder, {}, processes, lambda *_: None)
        except StageFailed as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    pid_file = folder / "pid.txt"
    while not pid_file.exists() or not pid_file.read_text().strip():
        time.sleep(0.05)
    shell = psutil.Process(int(pid_file.read_text()))
    family = [shell, *shell.children(recursive=True)]
    began = time.monotonic()
    processes.end_all()
    thread.join()
    gone, alive = psutil.wait_procs(family, timeout=60)
    assert not alive and len(gone) == len(family)
    assert time.monotonic() - began < 60  # the stage would sleep for ten minutes
    assert failures
    with pytest.raises(InterruptedError):
        run_stage("other", folder, {}, processes, lambda *_: None)
