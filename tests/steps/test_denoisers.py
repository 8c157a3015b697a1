"""What is done with a trained denoiser, on digits: samplers compared, averages chosen, the way from noise shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genforge import cli
from genforge.catalog import target
from genforge.files import read_json, write_text
from genforge.models import load
from genforge.settings import UserError
from genforge.steps import averages, extractor, ingest, prepare, resolve, samplers, train
from genforge.steps.draw import draw_trajectory
from genforge.steps.project import Project

PARAMS = """
extractor: {steps: 30, batch_size: 32, width: 8}
evaluation: {images: 50, seeds: [3, 4, 5], likelihood_images: 4}
recipes:
  edm:
    from: autoguided-edm
    networks:
      denoiser:
        main: {backbone: {width: 4, multipliers: [1]}}
        guide: {backbone: {width: 4, multipliers: [1]}}
    sampler: {steps: 3}
    training: {steps: 8, batch_size: 8, ema: 0.5, averages: {snapshots: 2}}
  gaussian: {from: gaussian}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("denoisers")
    write_text(root / "params.yaml", PARAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENFORGE_UPLOADER", "off")
        made = Project.load(root)
        for step in (ingest, prepare, extractor, resolve):
            step.run(made)
        for name in made.config.recipes:
            made.search(name).mkdir(parents=True)
            write_text(made.search(name) / "best.json", json.dumps({"settings": {}}))
            train.run(made, name)
    return made


@pytest.fixture(autouse=True)
def _no_uploader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENFORGE_UPLOADER", "off")


def test_every_sampler_is_measured_at_every_number_of_steps(project: Project) -> None:
    found = samplers.compare(project, "edm", [1, 2], ["heun", "ddim"])
    cells = {(cell.sampler, cell.steps): cell for cell in found.cells}
    assert list(cells) == [("ddim", 1), ("ddim", 2), ("heun", 1), ("heun", 2)]
    # Led away from the guide, each evaluation is one of both.
    assert [cell.evaluations for cell in cells.values()] == [2, 4, 2, 6]
    assert all(cell.fid > 0 and cell.seconds > 0 and cell.fid_error for cell in cells.values())
    assert cells["ddim", 1].fid == pytest.approx(cells["heun", 1].fid)  # one step is the denoiser itself
    assert cells["heun", 2].settings["autoguidance"] == 1.25  # as the recipe's own sampler has it
    assert (found.images, found.seed) == (50, 3)
    folder = project.samplers("edm")
    assert read_json(folder / "samplers.json") == json.loads(json.dumps(found.to_json()))
    assert "| `heun` |" in (folder / "samplers.md").read_text()
    for picture in ("samplers.png", "curves.png"):
        assert Image.open(folder / picture).size[0] > 200

    again = samplers.compare(project, "edm", [2, 3], ["heun"])
    cells_again = {(cell.sampler, cell.steps): cell for cell in again.cells}
    assert list(cells_again) == [*cells, ("heun", 3)]
    assert cells_again["heun", 2] == cells["heun", 2]  # with its seconds: not measured anew


def test_by_default_those_samplers_are_compared_that_suit_what_was_trained(project: Project) -> None:
    denoiser = load(project.model("edm"), target)
    assert set(samplers._names(denoiser, None)) == {"ddpm", "ddim", "euler", "heun", "dpm-solver"}


@pytest.mark.parametrize(
    ("name", "steps", "chosen", "rule"),
    [
        ("gaussian", [1], None, "in one pass; samplers and their steps can be compared only with a denoiser"),
        ("edn", [1], None, "did you mean `edm`"),
        ("edm", [1], ["heum"], "did you mean `heun`"),
        ("edm", [1], ["one-shot"], "'one-shot' cannot draw from a denoiser network; these can: ddpm, ddim"),
        ("edm", [1], ["consistency"], "'consistency' cannot draw from a denoiser network; these can: ddpm, ddim"),
    ],
)
def test_what_cannot_be_compared_is_told(
    project: Project, name: str, steps: list[int], chosen: list[str] | None, rule: str
) -> None:
    with pytest.raises(UserError, match=rule):
        samplers.compare(project, name, steps, chosen)


def test_averages_of_several_lengths_are_judged_and_the_model_stays_as_it_is(project: Project) -> None:
    before = (project.model("edm") / "weights.safetensors").read_bytes()
    assert sorted(path.name for path in (project.model("edm") / train.AVERAGES).iterdir()) == [
        f"{step:09d}-{length}.safetensors" for step in (4, 8) for length in (0.05, 0.1)
    ]
    found = averages.compare(project, "edm", [0.1, 0.05])
    assert [length.sigma_rel for length in found.lengths] == [None, 0.05, 0.1]
    assert found.lengths[1].fid != found.lengths[2].fid
    assert read_json(project.averages("edm") / "ema.json")["best"] == found.best.sigma_rel
    rows = np.asarray(Image.open(project.averages("edm") / "samples.png"))[::6, ::6]
    assert rows.shape == (3 * 9 - 1, 8 * 9 - 1)
    assert (project.model("edm") / "weights.safetensors").read_bytes() == before
    with pytest.raises(UserError, match=r"--sigma-rel 0.5: should be 0.01 to 0.28"):
        averages.compare(project, "edm", [0.5])
    with pytest.raises(UserError, match=r"gaussian/averages holds no averages"):
        averages.compare(project, "gaussian", [0.1])


def test_the_way_from_noise_is_a_strip_in_the_model_s_folder_and_at_hand(project: Project, tmp_path: Path) -> None:
    model = load(project.model("edm"), target)
    ways = model.trajectory(0, train.WAYS, train.MOMENTS)
    assert ways is not None and ways.shape == (4, 2, 3, 8, 8, 1)  # three steps, fewer than there are moments
    assert np.array_equal(ways[:, 0, -1], model.draw(0, 4)) and np.array_equal(ways[:, 0, -1], ways[:, 1, -1])
    strip = np.asarray(Image.open(project.model("edm") / "trajectory.png"))[::6, ::6]
    assert strip.shape == (8 * 9 - 1, 3 * 9 - 1)
    assert np.array_equal(strip[9:17, :8], ways[0, 1, 0, ..., 0])  # the second row: what the first step expected
    draw_trajectory("edm", 4, 10, 0, tmp_path / "way.png", project.root)
    kept = np.asarray(Image.open(project.model("edm") / "trajectory.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "way.png")), kept)
    assert not (project.model("gaussian") / "trajectory.png").exists()
    with pytest.raises(UserError, match="gaussian draws an image in one pass"):
        draw_trajectory("gaussian", 1, 5, 0, tmp_path / "none.png", project.root)
    with pytest.raises(UserError, match=r"name a \.png file"):
        draw_trajectory("edm", 1, 5, 0, tmp_path / "way.npy", project.root)


def test_the_command_tells_programs_what_it_found(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.root)
    assert cli.main(["samplers", "edm", "--steps", "1", "--samplers", "ddim", "--json"]) == 0
    assert {"sampler", "steps", "fid", "evaluations", "seconds"} <= json.loads(capsys.readouterr().out)["cells"][
        0
    ].keys()
    assert cli.main(["samplers", "edm", "--steps", "1", "--samplers", "ddim"]) == 0
    assert "images, evaluations an image\nprotocol " in capsys.readouterr().out  # in one piece, above a narrow table
    assert cli.main(["ema", "edm", "--sigma-rel", "0.1"]) == 0
    assert "as trained" in capsys.readouterr().out


def test_a_chosen_length_is_taken_without_training_again(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    text = PARAMS.replace("{snapshots: 2}", "{snapshots: 2, choose: 0.05}")
    write_text(project.root / "params.yaml", text)
    changed = Project.load(project.root)
    resolve.run(changed)
    capsys.readouterr()
    train.run(changed, "edm")
    assert "from step 8: 0 steps" in capsys.readouterr().err
    from safetensors.torch import load_file

    kept = load_file(project.model("edm") / train.AVERAGES / "000000008-0.05.safetensors")
    drawn_with = load_file(project.model("edm") / "weights.safetensors")
    for name, weight in kept.items():
        np.testing.assert_allclose(drawn_with[name.removeprefix("0.")].numpy(), weight.numpy(), atol=1e-5)
