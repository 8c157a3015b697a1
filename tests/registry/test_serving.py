"""`mlflow models serve` and `genforge sample` as real processes, from a registry alone: what leaves says where from."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from genforge import watermark
from genforge.catalog import target
from genforge.contracts import ImageShape
from genforge.models import digest, load
from genforge.provenance import Provenance, read_text
from genforge.registry.registry import Registry
from genforge.steps.provenance import examine
from tests.ports import free_port
from tests.trained_models import trained_folder

SIDE = 64
ALONE = """
import sys

class NoGenforge:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "genforge":
            raise ModuleNotFoundError("genforge is not installed here")

sys.meta_path.insert(0, NoGenforge())
"""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, new_store: Path) -> tuple[Path, dict[str, str]]:
    """The trained folder of version 2 of digits, which is staging, and the environment that names its registry."""
    root = tmp_path_factory.mktemp("registry")
    (root / new_store.name).write_bytes(new_store.read_bytes())
    registry = Registry(root, "digits")
    for seed in (0, 1):
        folder = trained_folder(root / f"gan-{seed}", "gan", seed=seed, classes=3, image=ImageShape(3, SIDE, SIDE))
        version, _ = registry.register(folder, {"fid": {"mean": 1.0, "std": 0.1}}, "p", {"recipe": "gan"})
    registry.move("staging", version.number, None, "for the test")
    return folder, {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{root / new_store.name}"}


@pytest.fixture(scope="module")
def ask(
    registered: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Any]]:
    """Asks a server in whose processes nothing called genforge can be imported; a refusal is its status and words."""
    empty = tmp_path_factory.mktemp("server")
    (empty / "sitecustomize.py").write_text(ALONE)
    environment = {**registered[1], "PYTHONPATH": str(empty)}
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/digits@staging"]
    command += ["--env-manager", "local", "--port", str(port)]
    with (empty / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=empty, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/ping", timeout=5).close()
                break
            assert server.poll() is None, (empty / "log").read_text()
            time.sleep(0.1)

        def asked(**body: Any) -> Any:
            request = urllib.request.Request(
                f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)["predictions"]
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        yield asked
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@pytest.mark.slow
def test_a_served_image_is_that_of_its_seed_and_says_so(
    ask: Callable[..., Any], registered: tuple[Path, dict[str, str]]
) -> None:
    folder, _ = registered
    model, weights = load(folder, target), digest(folder)
    answers = ask(dataframe_records=[{"n": 2, "label": 1}, {"n": 1, "label": 0}], params={"seed": 5, "first": 7})
    answers += ask(inputs={"n": [2]}, params={"seed": 5})
    numbers = [(answer["index"], answer["label"]) for answer in answers]
    assert numbers == [(7, 1), (8, 1), (9, 0), (0, None), (1, None)]
    for answer in answers:
        with Image.open(io.BytesIO(base64.b64decode(answer["png"]))) as picture:
            pixels, said = np.asarray(picture), read_text(picture)
        assert said == Provenance("digits", 2, weights, 5, answer["index"], answer["label"])
        assert {key: answer[key] for key in answer if key != "png"} == {
            key: value for key, value in asdict(said).items() if key not in ("way", "images", "columns")
        }
        labels = None if said.label is None else torch.tensor([said.label])
        drawn = model.draw(5, 1, said.index, labels)
        assert np.array_equal(pixels, watermark.embed(drawn, int(weights[:4], 16))[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("records", "rule"),
    [([{"n": -1}], "0 or more"), ([{"n": 600}, {"n": 600}], "1000"), ([{"n": 1, "label": 9}], "0 to 2")],
)
def test_a_server_refuses_what_it_cannot_draw(
    ask: Callable[..., Any], records: list[dict[str, int]], rule: str
) -> None:
    status, words = ask(dataframe_records=records)
    assert status == 400 and rule in words


@pytest.mark.slow
def test_sampling_needs_the_registry_alone(registered: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """In a folder that holds no project, and whose owner is left with the pictures and nothing else."""
    folder, environment = registered
    command = [sys.executable, "-m", "genforge.cli", "sample", "models:/digits@staging", "-n", "2", "--seed", "3"]
    done = subprocess.run([*command, "--out", "drawn"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "drawn",
        "drawn/00000.png",
        "drawn/00001.png",
    ]
    said = examine(tmp_path / "drawn" / "00001.png", tmp_path)
    assert said.text == Provenance("digits", 2, digest(folder), seed=3, index=1)
    assert said.mark.is_found and not said.disagrees
