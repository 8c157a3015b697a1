"""Every preset is a params.yaml that holds: each key known to the settings, each recipe buildable."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

from genforge.catalog import read_library, resolve_all
from genforge.cli import main
from genforge.config import load
from genforge.settings import UserError
from genforge.steps import preset
from genforge.steps.resolve import check
from genforge.steps.search import check_defaults, defaults_of
from pipelines.stages import check_watched_keys

ROOT = Path(__file__).parents[2]
NAMES = ["celeba", "cifar10", "digits", "fashion-mnist", "mnist", "my-images", "tins"]


def test_these_presets_there_are() -> None:
    assert preset.names() == NAMES


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("name", NAMES)
def test_a_preset_resolves_and_explains_itself(name: str, device: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    preset.write(name, device, path)
    config = load(path)
    recipes = check(config)
    assert {"gan", "vae", "diffusion", "box", "gaussian", "kernel-density"} <= recipes.keys()
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    check_watched_keys(tmp_path)
    text = path.read_text()
    assert text.count("#") > 15
    assert config.data.name == name
    whole = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert yaml.safe_load(text).keys() == whole.keys()
    longest = max(len(line) for line in text.splitlines() if "backbone" not in line)
    assert longest <= 140 and "\n\n\n" not in text


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("name", NAMES)
def test_a_search_turns_all_that_the_library_would_have_it_turn(name: str, device: str) -> None:
    recipes = resolve_all(yaml.safe_load(preset.render(name, device))["recipes"])
    for entry in ("gan", "vae", "diffusion"):
        recipe = recipes[entry]
        assert recipe.search.space.keys() == read_library(recipe.origin)["search"]["space"].keys()
        check_defaults(entry, recipe)
        for key, own in defaults_of(entry, recipe).items():
            dimension = recipe.search.space[key]
            if dimension.log:  # a range about the preset's own value, not one that merely holds it
                assert dimension.at(0.0) < own / 1.9 and own * 1.9 < dimension.at(0.9999)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_images_are_mirrored_only_where_it_is_known_that_a_mirror_shows_nothing_strange(device: str) -> None:
    mirrored = [name for name in NAMES if yaml.safe_load(preset.render(name, device))["data"]["horizontal_flip"]]
    assert mirrored == ["celeba", "cifar10"]


def test_digits_is_the_params_file_of_this_repository() -> None:
    assert preset.render("digits", "cpu") == preset.render("digits", "gpu") == (ROOT / "params.yaml").read_text()


def test_a_gpu_gets_more_than_a_cpu() -> None:
    for name in sorted(set(NAMES) - {"digits"}):
        steps = [
            yaml.safe_load(preset.render(name, device))["recipes"]["diffusion"]["training"]["steps"]
            for device in ("cpu", "gpu")
        ]
        assert steps[0] < steps[1]


def test_nobodys_settings_are_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("mine")
    assert main(["preset", "tins", "--out", str(path), "--device", "cpu"]) == 2
    assert path.read_text() == "mine" and "--force" in capsys.readouterr().err
    assert main(["preset", "tins", "--out", str(path), "--device", "cpu", "--force"]) == 0
    assert path.read_text() == preset.render("tins", "cpu")
    with pytest.raises(UserError, match="cannot be written"):
        preset.write("tins", "cpu", Path("/proc/params.yaml"))
    with pytest.raises(UserError, match="did you mean `mnist`"):
        preset.render("mnits", "cpu")


def test_a_preset_as_it_was_written_makes_way(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())  # as in a fresh clone
    preset.write("my-images", "cpu", path)
    preset.write("tins", "cpu", path)
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(UserError, match="stays as it is"):
        preset.write("my-images", "cpu", path)


def test_a_preset_is_fitted_to_its_folder(tmp_path: Path) -> None:
    path, folder = tmp_path / "params.yaml", tmp_path / "2 My Flowers"
    (folder / "rose").mkdir(parents=True)
    for number in range(600):
        (folder / "rose" / f"{number}.jpg").touch()
    said = preset.write("my-images", "cpu", path, folder=Path(folder.name))
    assert "600 files" in said[1] and load(path).evaluation.images == 170 <= 0.3 * 0.95 * 600
    assert (load(path).data.folder, load(path).data.name) == (folder.name, "my-flowers")
    assert "# names the MLflow experiment" in path.read_text()
    (tmp_path / "my-images").mkdir()
    for number in range(2):
        Image.new("L", (28, 28)).save(tmp_path / "my-images" / f"gray-{number}.png")
    said = preset.write("my-images", "cpu", path, force=True)
    assert "gray" in said[0] and "28x28" in said[1]
    assert (load(path).data.channels, load(path).data.image_size) == (1, 28)
    Image.new("RGB", (28, 40)).save(tmp_path / "my-images" / "other.png")
    assert len(preset.write("my-images", "cpu", path, force=True)) == 2  # they are few
    assert (load(path).data.channels, load(path).data.image_size) == (3, 32)
    assert "the judge needs 50" in preset.write("my-images", "cpu", path, force=True)[1]
    assert load(path).evaluation.images == 50
    with pytest.raises(UserError, match="tins reads no folder"):
        preset.write("tins", "cpu", path, force=True, folder=folder)


@pytest.mark.parametrize("name", ["no", "on", "yes", "true", "null"])
def test_a_folder_s_name_that_yaml_takes_for_something_else_is_the_model_s_all_the_same(
    name: str, tmp_path: Path
) -> None:
    preset.write("my-images", "cpu", tmp_path / "params.yaml", folder=Path(name))
    assert load(tmp_path / "params.yaml").data.name == name
