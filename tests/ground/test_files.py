"""Files are whole or absent, and nothing that could run code is loaded."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genforge import files
from genforge.settings import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError):
        with files.replacing(path) as file:
            file.write(b"half")
            raise RuntimeError
    assert files.read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with files.replacing_folder(target) as folder:
        (folder / "old").write_text("1")
    with pytest.raises(RuntimeError):
        with files.replacing_folder(target) as folder:
            (folder / "new").write_text("2")
            raise RuntimeError
    assert [entry.name for entry in target.iterdir()] == ["old"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    with files.replacing_folder(target) as folder:
        (folder / "new").write_text("2")
    assert [entry.name for entry in target.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_not_a_number_is_refused_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"fid": float("nan")})
    assert not list(tmp_path.iterdir())


def test_pickled_arrays_and_unsafe_yaml_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps([1, 2]))
    for name in ("object.npy", "pickle.npy"):
        with pytest.raises(UserError, match="plain NumPy array"):
            files.read_array(tmp_path / name)
    (tmp_path / "empty.npy").touch()
    with pytest.raises(UserError, match="plain NumPy array"):
        files.read_array(tmp_path / "empty.npy", memory_map=True)
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(UserError, match="archive of several arrays"):
        files.read_array(tmp_path / "archive.npy", memory_map=True)
    (tmp_path / "a.yaml").write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        files.read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1"),
        ("- 1\n- 2\n", "list"),
        ("3", "int"),
        ("b:\n  a: 1\n  c: {d: 2}\n  a: 3\n", "key 'a' stands twice, in lines 2 and 4"),
    ],
)
def test_yaml_that_is_no_mapping_is_told_clearly(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        files.read_yaml(tmp_path / "a.yaml")


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    for read in (files.read_yaml, files.read_json):
        with pytest.raises(UserError, match="cannot be read: Is a directory"):
            read(tmp_path)


def test_digests_see_contents_type_and_shape_but_not_the_order_of_keys() -> None:
    a = np.arange(6, dtype=np.int64)
    arrays = [a, a.astype(np.int32), a.reshape(2, 3), a[::-1]]
    assert len({files.digest_array(array) for array in arrays}) == 4
    assert files.digest_array(a.reshape(2, 3).T) == files.digest_array(np.ascontiguousarray(a.reshape(2, 3).T))
    assert files.digest_json({"a": 1, "b": [2]}) == files.digest_json({"b": [2], "a": 1})


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    assert files.digest_file(tmp_path / "a") == files.digest_bytes(data) == files.digest_bytes(data[:7], data[7:])


def test_a_link_to_a_folder_stays_one_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "old").write_text("old")
    (tmp_path / "out").symlink_to(tmp_path / "large")
    with files.replacing_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "out").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "out"]
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["new"]


def test_text_is_written_in_utf_8_whatever_the_machine_speaks(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from genforge.files import write_text\n"
        "write_text(Path(sys.argv[1]), 'FID \\u2193 \\u00b1')"
    )
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "board.md")], env=environment, check=False)
    assert done.returncode == 0
    assert (tmp_path / "board.md").read_bytes() == "FID \u2193 \u00b1".encode()
