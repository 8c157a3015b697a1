"""No file that comes from outside can run code, and none small can become large: the source is read for it, and hostile
files are given to everything that reads files."""

from __future__ import annotations

import ast
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from genforge import files
from genforge.catalog import target
from genforge.models import load
from genforge.settings import UserError
from tests.trained_models import trained_folder

ROOT = Path(__file__).parents[2]
# What may be called only with an argument that makes it safe, and that argument.
GUARDED = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False", "numpy.load": "allow_pickle=False"}
NEVER = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.load_all"}
NEVER |= {"yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.package.PackageImporter"}
NEVER_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "commands", "code"}
ALLOWED = {
    "src/genforge/data/decoding_worker.py: imports marshal",  # between us and our own child, through a pipe
    "src/genforge/evaluation/weights.py: imports pickle",  # the name of an error that is caught
}


def suspicious(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found |= {f"imports {name}" for name in names if name.partition(".")[0] in NEVER_IMPORTED}
        elif isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {ast.unparse(keyword) for keyword in node.keywords}
            if name in NEVER or (name in GUARDED and GUARDED[name] not in given) or "shell=True" in given:
                found.add(f"calls {ast.unparse(node)}")
    return {f"{path.relative_to(ROOT)}: {what}" for what in found}


def test_no_source_file_can_run_code_from_a_file_or_give_a_name_to_a_shell() -> None:
    sources = [path for room in ("src", "pipelines") for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 60
    assert set().union(*map(suspicious, sources)) == ALLOWED


@pytest.mark.parametrize(
    "line", ["torch.load(path)", "np.load(path)", "subprocess.run(line, shell=True)", "yaml.load(text, Loader)"]
)
def test_what_is_looked_for_is_found(tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "a.py").write_text(line)
    assert suspicious(tmp_path / "a.py") == {f"a.py: calls {line}"}


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.path}",)


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(12),  # 9^12 values
        "a: &a {x: 1}\n" + "\n".join(f"b{i}: &b{i} {{<<: [*a, *a], y: {i}}}" for i in range(40_000)),
        "a: &a [*a]",
        "[" * 5_000 + "]" * 5_000,
        "a: " + "9" * 5_000,
        "x: " + "y" * (1 << 20),
        "a: !!python/object/apply:os.system ['touch owned']",
        "!!python/object/new:type {args: [z, [], {extend: !!python/name:exec }]}",
        "a: !!python/module:os",
        "{? {a: b} : c}",
        "a: \ud800".encode("utf-8", "surrogatepass"),
    ],
    ids=["laughs", "merges", "circle", "deep", "digits", "large", "apply", "new", "module", "keys", "not UTF-8"],
)
def test_hostile_settings_are_told(tmp_path: Path, text: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"params\.yaml"):
        files.read_yaml(tmp_path / "params.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_aliases_that_stay_small_are_fine(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert files.read_yaml(tmp_path / "params.yaml") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, "\ud800", "{"])
def test_hostile_json_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        files.read_json(tmp_path / "a.json")


def npy(shape: tuple[int, ...]) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


@pytest.mark.parametrize("memory_map", [True, False])
@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 62, 1 << 62), (65,)])
def test_an_array_that_declares_more_than_it_has_is_told(
    tmp_path: Path, shape: tuple[int, ...], memory_map: bool
) -> None:
    (tmp_path / "a.npy").write_bytes(npy(shape))
    with pytest.raises(UserError, match="not a plain NumPy array"):
        files.read_array(tmp_path / "a.npy", memory_map)
    (tmp_path / "a.npy").write_bytes(npy((64,)))
    assert files.read_array(tmp_path / "a.npy", memory_map).shape == (64,)


def test_archives_and_objects_are_no_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([Hostile(tmp_path / "owned")], dtype=object))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(UserError, match="archive of several arrays"):
        files.read_array(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([Hostile(tmp_path / "owned")], dtype=object), allow_pickle=True)
    for memory_map in (True, False):
        with pytest.raises(UserError, match="not a plain NumPy array"):
            files.read_array(tmp_path / "b.npy", memory_map)
    assert not (tmp_path / "owned").exists()


def safetensors(header: dict[str, object] | bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)


def tensor(start: int, end: int, shape: list[int]) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        safetensors({"a": tensor(0, 64, [16])}, length=1 << 60),
        safetensors({"a": tensor(0, 1 << 50, [1 << 48])}),
        safetensors({"a": tensor(0, 64, [1 << 62, 4])}),
        safetensors({"a": tensor(0, 64, [16]), "b": tensor(32, 64, [8])}),
        safetensors({"a": tensor(64, 0, [16])}),
        safetensors(b"[" * 100_000),
        b"",
        pickle.dumps({"a": 1}),
    ],
    ids=["long header", "huge", "overflow", "overlap", "backwards", "deep", "empty", "pickle"],
)
def test_weights_with_a_lying_header_are_told(tmp_path: Path, content: bytes) -> None:
    folder = trained_folder(tmp_path / "gan", "gan")
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="does not hold the weights"):
        load(folder, target)


@pytest.mark.parametrize(
    "card",
    [
        {},
        [],
        {"exported": {}},
        {"exported": {"port": {}, "network": {}, "sampler": {}}},
        {"exported": {"network": {"name": "os:system"}, "port": {"kind": "x", "image": {}}, "sampler": {"name": "x"}}},
    ],
)
def test_a_card_that_describes_no_model_is_told(tmp_path: Path, card: object) -> None:
    folder = trained_folder(tmp_path / "gan", "gan")
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"model\.json"):
        load(folder, target)


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "model.ckpt", "weights.pth", "model.npz"])
def test_a_file_that_may_hold_code_is_no_model_and_no_images(tmp_path: Path, name: str) -> None:
    from genforge.config import load as load_config
    from genforge.contracts import ImageShape
    from genforge.steps.draw import draw
    from genforge.steps.judge import read_images
    from genforge.steps.project import Project

    (tmp_path / "params.yaml").write_text("recipes: {gan: {from: hinge-sngan}}\n")
    (tmp_path / name).write_bytes(pickle.dumps(Hostile(tmp_path / "owned")))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes(pickle.dumps(Hostile(tmp_path / "owned")))
    for model in (name, "folder"):
        with pytest.raises(UserError, match="never opened"):
            draw(model, 1, 0, tmp_path / "out.png", tmp_path)
    project = Project(tmp_path, load_config(tmp_path / "params.yaml"))
    with pytest.raises(UserError, match="never opened"):
        read_images(project, tmp_path / name, ImageShape(1, 8, 8))
    with pytest.raises(UserError, match="none of the 1 files"):
        read_images(project, tmp_path / "folder", ImageShape(1, 8, 8))
    assert not (tmp_path / "owned").exists()
