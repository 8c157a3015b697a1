"""A registered model stands by itself: without this project, without pickles, beside other versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genforge import models
from genforge.catalog import target
from genforge.registry import packaging
from genforge.settings import UserError
from tests.trained_models import trained_folder

ALONE = """
import json, sys

class NoGenforge:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "genforge":
            raise ModuleNotFoundError("genforge is not installed here")

sys.meta_path.insert(0, NoGenforge())
import mlflow
loaded = [mlflow.pyfunc.load_model(package) for package in sys.argv[1:]]
images = [model.predict({"n": [5]}, params={"seed": 3}).tolist() for model in loaded]
print(json.dumps([images, sorted(name for name in sys.modules if "genforge" in name)]))
"""
FAMILIES = ("gan", "diffusion")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """For each family a trained folder and its package."""
    made = {}
    for family in FAMILIES:
        root = tmp_path_factory.mktemp(family)
        made[family] = trained_folder(root / "trained", family), root / "package"
        packaging.package(*made[family])
    return made


@pytest.fixture(params=FAMILIES)
def packaged(request: pytest.FixtureRequest, packages: dict[str, tuple[Path, Path]]) -> tuple[Path, Path]:
    return packages[request.param]


def test_they_draw_in_a_process_that_has_no_genforge(packages: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-I", "-c", ALONE, *(str(package) for _, package in packages.values())]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")
    images, modules = json.loads(answer.stdout.splitlines()[-1])
    for drawn, (folder, _) in zip(images, packages.values(), strict=True):
        assert np.array_equal(drawn, models.load(folder, target).draw(seed=3, count=5))
    assert not [name for name in modules if "objectives" in name or "training" in name or "catalog" in name]


def test_any_friendly_input_gives_the_images_of_the_seed(packaged: tuple[Path, Path]) -> None:
    import mlflow

    folder, package = packaged
    model = mlflow.pyfunc.load_model(str(package))
    expected = models.load(folder, target).draw(seed=7, count=6)
    assert expected.dtype == np.uint8
    assert np.array_equal(model.predict({"n": 6}, params={"seed": 7}), expected)
    assert np.array_equal(model.predict({"n": [2, 4]}, params={"seed": 7}), expected)
    assert np.array_equal(model.predict({"n": [3]}, params={"seed": 7, "first": 2}), expected[2:5])
    assert np.abs(model.predict({"n": [6]}, params={"seed": 7, "batch_size": 4}) - expected.astype(int)).max() <= 1
    assert not np.array_equal(model.predict({"n": [6]}), expected)
    with pytest.raises(ValueError, match="n should be 0 or more"):
        model.predict({"n": [-1]})
    with pytest.raises(ValueError, match="seed and first should be"):
        model.predict({"n": [1]}, params={"seed": -1})


def test_it_says_what_it_takes_gives_and_needs(packaged: tuple[Path, Path]) -> None:
    from importlib.metadata import version

    from mlflow.models import Model

    folder, package = packaged
    signature = Model.load(str(package)).signature
    port = json.loads((folder / "model.json").read_text())["exported"]["port"]["image"]
    assert signature.inputs.input_names() == ["n"]
    assert signature.outputs.inputs[0].shape == (-1, port["height"], port["width"], port["channels"])
    needed = (package / "requirements.txt").read_text().split()
    assert f"torch=={version('torch').partition('+')[0]}" in needed
    names = {line.partition("==")[0].lower() for line in needed}
    assert {"mlflow", "numpy", "pandas", "pydantic", "safetensors", "torch"} <= names
    assert not names & {"prefect", "optuna", "dvc", "torch-fidelity", "scikit-learn", "psutil"}


def test_nothing_in_it_is_pickled_and_nothing_imports_genforge_by_name(packaged: tuple[Path, Path]) -> None:
    _, package = packaged
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]  # made by loading
    assert {path.suffix for path in files} <= {".py", ".json", ".safetensors", ".yaml", ".txt", ""}
    for path in (package / "code").rglob("*.py"):
        assert "from genforge." not in path.read_text()
        assert "import genforge\n" not in path.read_text()


def test_a_conditional_model_draws_the_label_asked_for(tmp_path: Path) -> None:
    import mlflow

    folder = trained_folder(tmp_path / "trained", "gan", classes=3)
    packaging.package(folder, tmp_path / "package")
    model = mlflow.pyfunc.load_model(str(tmp_path / "package"))
    in_turn = model.predict({"n": [6]}, params={"seed": 1})
    only = [model.predict({"n": [6], "label": [label]}, params={"seed": 1}) for label in range(3)]
    for number in range(6):
        assert np.array_equal(in_turn[number], only[number % 3][number])
    with pytest.raises(ValueError, match="label should be 0 to 2"):
        model.predict({"n": [1], "label": [3]})


def test_two_versions_of_the_source_live_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    folder = trained_folder(tmp_path / "trained", "gan")
    packaging.package(folder, tmp_path / "before")
    before = mlflow.pyfunc.load_model(str(tmp_path / "before"))
    # The package as a later genforge would make it, whose images are upside down.
    monkeypatch.setattr(packaging, "code_digest", lambda modules: "f" * 32)
    packaging.package(folder, tmp_path / "after")
    (source,) = (tmp_path / "after" / "code").glob("*/contracts.py")
    source.write_text(source.read_text().replace(".permute(0, 2, 3, 1)", ".permute(0, 2, 3, 1).flip(1)"))
    after = mlflow.pyfunc.load_model(str(tmp_path / "after"))
    assert np.array_equal(before.predict({"n": 4})[:, ::-1], after.predict({"n": 4}))


def test_weights_that_are_not_the_networks_are_told(tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "trained", "gan")
    other = trained_folder(tmp_path / "other", "diffusion")
    (folder / "weights.safetensors").write_bytes((other / "weights.safetensors").read_bytes())
    with pytest.raises(UserError, match="does not hold the weights"):
        models.load(folder, target)


def test_the_digest_is_of_what_images_depend_on(tmp_path: Path) -> None:
    folder = trained_folder(tmp_path / "a", "gan")
    digest = models.digest(folder)
    assert models.digest(trained_folder(tmp_path / "b", "gan", name="renamed")) == digest
    assert models.digest(trained_folder(tmp_path / "c", "gan", seed=1)) != digest
