"""The step `train`, struck at any instant: what it leaves behind in the end is the same to the bit, its run's own log
says how it ended, and its user is told what to do."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from genforge.files import digest_file, read_json
from genforge.settings import UserError
from genforge.steps import extractor, ingest, prepare, resolve, train
from genforge.steps.project import Project
from genforge.tracking.run_log import RunLog, all_runs
from genforge.training.checkpoint import Checkpoints, Snapshot, whole
from genforge.training.failure import TrainingFailed
from genforge.training.turn import Turn
from tests.disasters import REACHED, in_child, strike

PARAMS = """
data: {name: digits, source: digits}
extractor: {steps: 40}
evaluation: {images: 60, batch_size: 25}
recipes:
  vae: {from: vae, training: {steps: 30, batch_size: 16, checkpoint_every: 8, log_every: 5}}
  wild: {from: vae, training: {steps: 30, batch_size: 16, optimizer: {name: sgd, learning_rate: 10.0}}}
  noise:
    from: ddpm
    networks: {denoiser: {backbone: {width: 8}}}
    sampler: {name: ddim, steps: 4}
    training: {steps: 6, batch_size: 8}
"""
TERMINATED = 143
MISTAKE = 2  # as the command line ends after a UserError
FILES = ("weights.safetensors", "curves.csv", "filmstrip.png", "samples.png")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(PARAMS)
    project = Project.load(root)
    ingest.run(project)
    prepare.run(project)
    resolve.run(project)
    return root


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Project:
    shutil.copytree(prepared, tmp_path / "project")
    return Project.load(tmp_path / "project")


@pytest.fixture(scope="module")
def straight(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("straight") / "project"
    shutil.copytree(prepared, root)
    train.run(Project.load(root), "vae")
    return results(Project.load(root))


def results(project: Project) -> dict[str, str]:
    return {name: digest_file(project.model("vae") / name) for name in FILES} | {
        "plot": digest_file(project.curves("vae"))
    }


def as_a_command(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(MISTAKE)

    return run


def run_of(project: Project, status: str | None) -> RunLog:
    """The only run with this status."""
    (log,) = [log for log in all_runs(project.root) if log.status() == status]
    return log


def test_killed_at_any_instant_it_leaves_behind_the_same_in_the_end(
    project: Project, straight: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(1)
    for number in (chance.randrange(10, 60), chance.randrange(40, 90), 5):
        status = strike("kill", number, project.root, lambda: train.run(project, "vae"))
        assert status == -signal.SIGKILL
    (kept,) = (project.state / "checkpoints" / "vae").iterdir()
    newest = whole(kept)[0]
    (newest / "tensors.safetensors").write_bytes(b"torn")
    assert in_child(lambda: train.run(project, "vae")) == 0
    assert results(project) == straight
    assert f"damaged checkpoint: {newest}" in capfd.readouterr().err

    finished = run_of(project, "FINISHED")
    points = Counter((event.values["step"], name) for event in finished.read() if event.kind == "metrics"
                     for name in event.values["values"])  # fmt: skip
    assert set(points.values()) == {1} and {(step, "loss") for step in range(5, 31, 5)} <= points.keys()
    images = [
        event.values["step"] for event in finished.read() if event.kind == "image" and event.values["key"] == "samples"
    ]
    assert images == [6, 12, 18, 24, 30], "a resumed run's log tells the whole story, each part once"


@pytest.mark.parametrize("when", ["checkpoint", "pictures", "last pictures", "weights"])
def test_terminated_it_is_marked_killed_and_goes_on(
    project: Project, straight: dict[str, str], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Counter[str]()

    def asking(name: str, function: Callable[..., object], call: int = 1) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            calls[name] += 1
            if name == when and calls[name] == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return function(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patched:
        pictures = train.pictures_of
        patched.setattr(Checkpoints, "save", asking("checkpoint", Checkpoints.save, 2))
        patched.setattr(train, "pictures_of", asking("pictures", asking("last pictures", pictures, 6), 2))
        patched.setattr(train, "write", asking("weights", train.write))
        assert in_child(lambda: train.run(project, "vae")) == TERMINATED
    killed = run_of(project, "KILLED")
    assert killed.start().values["kind"] == "train"
    *_, end = killed.read()
    assert "asked to end, by SIGTERM" in end.values["reason"]
    assert not project.model("vae").exists()
    train.run(project, "vae")
    assert results(project) == straight


def test_where_the_disk_is_full_that_is_told_and_nothing_is_lost(
    project: Project, straight: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    reached = 0
    for number in (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 90, 100):
        status = strike("full", number, project.root, as_a_command(lambda: train.run(project, "vae")))
        told = capfd.readouterr().err
        if status == MISTAKE:
            no_file = all(words in told for words in ("No space left on device", "MB are free there", "make room"))
            no_event = "the disk is full" in told and "free some space and run this again" in told  # of the run's log
            assert no_file or no_event, told
            reached += 1
        else:
            assert status in (0, REACHED), told
    assert reached >= 8
    train.run(project, "vae")
    assert results(project) == straight


def test_a_run_that_cannot_be_mended_fails_with_the_reason_in_its_log(project: Project) -> None:
    with pytest.raises(TrainingFailed) as failure:
        train.run(project, "wild")
    failed = run_of(project, "FAILED")
    *_, end = failed.read()
    assert "of player `autoencoder`" in end.values["reason"] and end.values["reason"].count("tried:") == 2
    assert [rollback.back_to for rollback in failure.value.rollbacks] == [0, 0]
    assert not project.model("wild").exists()


def test_a_models_card_tells_in_what_environment_it_was_trained_and_of_rollbacks(project: Project) -> None:
    train.run(project, "vae")
    card = read_json(project.model("vae") / "model.json")
    (environment,) = card["environments"]
    assert environment["device"] == "cpu" and environment["threads"] == "1" and card["rollbacks"] == []


def test_another_sampler_costs_no_training(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    train.run(project, "noise")
    folder = project.model("noise")
    weights, samples = digest_file(folder / "weights.safetensors"), digest_file(folder / "samples.png")

    params = project.root / "params.yaml"
    params.write_text(params.read_text().replace("{name: ddim, steps: 4}", "{name: ddim, steps: 7}"))
    project = Project.load(project.root)
    resolve.run(project)

    def no_more(self: Turn, *arguments: object) -> None:
        raise AssertionError("a step was trained")

    monkeypatch.setattr(Turn, "take", no_more)
    train.run(project, "noise")
    assert read_json(folder / "model.json")["exported"]["sampler"]["steps"] == 7
    assert digest_file(folder / "weights.safetensors") == weights
    assert digest_file(folder / "samples.png") != samples

    params.write_text(params.read_text().replace("width: 8", "width: 12"))
    resolve.run(Project.load(project.root))
    with pytest.raises(AssertionError, match="a step was trained"):
        train.run(Project.load(project.root), "noise")


def test_the_extractor_goes_on_too(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    shutil.copytree(project.root, other)
    extractor.run(Project.load(other))

    save = Checkpoints.save

    def save_and_die(self: Checkpoints, snapshot: Snapshot) -> Path:
        path = save(self, snapshot)
        if snapshot.step == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", save_and_die)
        assert in_child(lambda: extractor.run(project)) == -signal.SIGKILL
    (kept,) = (project.state / "checkpoints" / "_extractor").iterdir()
    assert Checkpoints(kept).steps()[0] == 40
    extractor.run(project)
    for name in ("weights.safetensors", "reference.safetensors"):
        assert digest_file(project.extractor / name) == digest_file(Project.load(other).extractor / name)
