"""Every source arrives as what it says it is."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genforge.config import DataSettings
from genforge.data import tins, torchvision_door
from genforge.data.image_folder import list_folder
from genforge.data.sources import Places, ingest
from genforge.files import read_array, read_json
from genforge.settings import UserError
from genforge.torchvision_cure import import_torchvision


def ingested(out: Path, folder: Path | None = None, **settings: object) -> Path:
    out.mkdir()
    ingest(DataSettings.read(settings, "data"), Places(folder or out / "absent", out / "downloads", seed=0), out)
    return out


def fill(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")
    return folder


def test_digits_are_scikit_learns_over_the_whole_range_of_gray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.datasets", None)  # it takes seconds to import, and is not imported
        raw = ingested(tmp_path / "raw", source="digits")
    from sklearn.datasets import load_digits

    theirs = load_digits()
    images, labels = read_array(raw / "all-images.npy"), read_array(raw / "all-labels.npy")
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8 and images.max() == 255
    assert np.abs(images[..., 0] / 255 * 16 - theirs.images).max() < 0.04
    assert np.array_equal(labels, theirs.target)
    assert read_json(raw / "source.json")["classes"] == list("0123456789")


# Folders of images


def test_a_listing_has_the_files_of_each_class_in_a_fixed_order(tmp_path: Path) -> None:
    folder = fill(
        tmp_path / "in", "cat/2.png", "ant/1.png", "cat/deep/er/3.jpg", "cat/.hidden.png", ".git/x", "README.md"
    )
    (folder / "dog").symlink_to(folder / "cat" / "deep")
    (folder / "cat" / "deep" / "circle").symlink_to(folder / "cat")
    listing = list_folder(folder)
    expected = [("ant/1.png", "ant"), ("cat/2.png", "cat"), ("cat/deep/er/3.jpg", "cat"), ("dog/er/3.jpg", "dog")]
    assert [row for row in listing.rows() if "circle" not in row[0]] == expected
    assert len(listing) < 12  # the circle of links has an end


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    raw = ingested(tmp_path / "raw", fill(tmp_path / "in", "b.png", "a.png", "note.txt"), source="image_folder")
    listing = pl.read_parquet(raw / "listing.parquet")
    assert listing["path"].to_list() == ["a.png", "b.png", "note.txt"] and listing["label"].null_count() == 3
    assert read_json(raw / "source.json")["classes"] == []


def test_a_name_that_is_no_text_is_listed_all_the_same(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", "a.png")
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))).write_bytes(b"x")
    assert list_folder(folder)["path"].to_list() == ["\\xff.png", "a.png"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "not a folder"),
        (["README.md"], "holds no files"),
        (["a.png", "cat/b.png"], "mixes images without a label"),
        (["train/cat/a.png", "test/cat/b.png"], "look like splits"),
    ],
)
def test_a_folder_that_makes_no_sense_is_an_error(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list_folder(fill(tmp_path / "in", *paths))


# Files as torchvision keeps them


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_files(folder: Path, pack: bool = True) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", 30), ("t10k", 12)):
        arrays[f"{prefix}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = random.integers(0, 10, count, dtype=np.uint8)
    for name, array in arrays.items():
        path = folder / (f"{name}.gz" if pack else name)
        path.write_bytes(gzip.compress(idx(array)) if pack else idx(array))
    return arrays


@pytest.mark.parametrize("source", ["mnist", "fashion_mnist", "kmnist"])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("layout", ["", "raw", "CLASS/raw"])
def test_idx_files_are_read_from_every_layout(tmp_path: Path, source: str, pack: bool, layout: str) -> None:
    arrays = idx_files(tmp_path / "in" / layout.replace("CLASS", torchvision_door.CLASS_OF[source]), pack)
    raw = ingested(tmp_path / "raw", tmp_path / "in", source=source)
    assert np.array_equal(read_array(raw / "train-images.npy")[..., 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(read_array(raw / "test-labels.npy"), arrays["t10k-labels-idx1-ubyte"])
    assert read_json(raw / "source.json")["parts"] == {"train": 30, "test": 12}


def without_one(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()


def cut_archive(folder: Path) -> None:
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])


def short_array(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(12, np.uint8))[:-3]))


def other_count(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(11, np.uint8))))


def no_idx(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"<html>not found</html>"))


def wrong_label(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(12, 77, np.uint8))))


@pytest.mark.parametrize("damage", [without_one, cut_archive, short_array, other_count, no_idx, wrong_label])
def test_a_damaged_file_is_named(tmp_path: Path, damage: object) -> None:
    idx_files(tmp_path / "in")
    damage(tmp_path / "in")  # type: ignore[operator]
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte"):
        ingested(tmp_path / "raw", tmp_path / "in", source="mnist")


def test_where_nothing_can_be_downloaded_the_files_to_fetch_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_torchvision()
    from torchvision.datasets import MNIST

    def away(self: MNIST) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST, "download", away)
    with pytest.raises(UserError, match=r"no network.*train-images-idx3-ubyte\.gz"):
        ingested(tmp_path / "raw", tmp_path / "in", source="mnist")


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """CIFAR-10's files with four images in each batch, and torchvision told their sums."""
    import pickle

    import_torchvision()
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "in" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    sums = []
    for i, name in enumerate(names):
        data = images[4 * i : 4 * i + 4].transpose(0, 3, 1, 2).reshape(4, -1)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [0, 1, 2, 9]}))
        sums.append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    meta_sum = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta_sum})
    return images


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_cifar_is_read_from_its_folder_or_the_one_above(tmp_path: Path, small_cifar: np.ndarray, inside: str) -> None:
    raw = ingested(tmp_path / "raw", tmp_path / "in" / inside, source="cifar10")
    assert np.array_equal(read_array(raw / "train-images.npy"), small_cifar[:20])
    assert np.array_equal(read_array(raw / "test-images.npy"), small_cifar[20:])
    assert read_array(raw / "test-labels.npy").tolist() == [0, 1, 2, 9]


def test_a_pickle_with_another_sum_is_not_opened(tmp_path: Path, small_cifar: np.ndarray) -> None:
    batch = tmp_path / "in" / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")
    with pytest.raises(UserError, match="data_batch_3 does not have the MD5 sum"):
        ingested(tmp_path / "raw", tmp_path / "in", source="cifar10")
    assert not (tmp_path / "owned").exists()


# Tins


def test_tins_are_as_high_and_as_wide_as_their_factors_say() -> None:
    factors = tins.draw_factors(200, seed=0)
    factors[:, tins.FACTORS.index("background")] = 0.95
    images = tins.draw(factors, 64).astype(float)
    empty = tins.draw(np.concatenate([factors[:1, :0], np.float32([[0, 1e-6, 0, 0, 0.95, -0.4, 0]])], axis=1), 64)[
        0, :, -1
    ]
    covered = np.abs(images - empty[None, :, None].astype(float)).max(axis=3) > 25
    width = covered.any(axis=1).sum(axis=1) / 64
    body_and_lid = covered.any(axis=2).sum(axis=1) / 64
    expected_height = factors[:, 0] + tins.LID * factors[:, 1] + 0.0
    assert np.abs(width - factors[:, 1]).max() < 0.05
    assert np.abs(body_and_lid - expected_height).max() < 0.06


def test_without_nuisance_tins_differ_in_height_and_width_alone() -> None:
    full, bare = tins.draw_factors(50, seed=0), tins.draw_factors(50, seed=0, nuisance=0.0)
    assert np.array_equal(full[:, :2], bare[:, :2])
    assert np.ptp(bare[:, 2:], axis=0).max() == 0 and np.ptp(full[:, 2:], axis=0).min() > 0


def test_tins_differ_and_a_seed_draws_the_same_ones(tmp_path: Path) -> None:
    raw = ingested(tmp_path / "raw", source="tins", count=50)
    images, factors = read_array(raw / "all-images.npy"), read_array(raw / "all-factors.npy")
    assert images.shape == (50, 32, 32, 3) and len(np.unique(images.reshape(50, -1), axis=0)) == 50
    assert np.array_equal(tins.draw(factors, 32), images)
    assert read_json(raw / "source.json")["factors"] == list(tins.FACTORS)


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "cat/1.png")

    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("genforge.data.image_folder.os.scandir", closed)  # root may look into every folder
    with pytest.raises(UserError, match=r"cannot be looked into .Permission denied"):
        list_folder(tmp_path)
