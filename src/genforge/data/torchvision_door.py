"""MNIST, Fashion-MNIST, KMNIST and CIFAR-10 through torchvision: read from a folder that has the files, or downloaded.

Downloads are checked against the sums that torchvision publishes, and kept. CIFAR-10 comes as Python pickles, which
could run code: only files whose sums are torchvision's are opened, from wherever they came.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genforge.progress import say
from genforge.settings import UserError
from genforge.torchvision_cure import import_torchvision

CLASS_OF = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10"}
IDX_NAMES = {"train": "train", "test": "t10k"}  # what the files of a split begin with
CIFAR_FOLDER, CIFAR_ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"


@dataclass(frozen=True)
class LabelledImages:
    """One official split: uint8 (n, h, w, c), int64 (n,), and the names of the classes."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def load(source: str, folder: Path, downloads: Path) -> dict[str, LabelledImages]:
    """The official splits `train` and `test`.

    Args:
        source: a key of CLASS_OF.
        folder: where the user's files may lie; when the files are there the network is not touched.
        downloads: where downloaded files are kept.

    Raises:
        UserError: a file is missing or damaged, or cannot be downloaded; names the file and what to do.
    """
    import_torchvision()
    from torchvision import datasets

    dataset = getattr(datasets, CLASS_OF[source])
    return _load_cifar(dataset, folder, downloads) if source == "cifar10" else _load_idx(dataset, folder, downloads)


def _load_idx(dataset: Any, folder: Path, downloads: Path) -> dict[str, LabelledImages]:
    """MNIST and those made in its image: four files in the IDX format, gzipped or not."""
    name = dataset.__name__
    wanted = [archive.removesuffix(".gz") for archive, _ in dataset.resources]
    files = _find_idx(wanted, [folder, folder / "raw", folder / name / "raw", folder / name])
    if not files:
        _download(dataset, downloads, f"{', '.join(archive for archive, _ in dataset.resources)} into {folder}")
        files = _find_idx(wanted, [downloads / name / "raw"])
    lacking = sorted(set(wanted) - set(files))
    if lacking:
        raise UserError(
            f"{name}: {next(iter(files.values())).parent} lacks {', '.join(lacking)} (or the same with .gz); put what "
            f"is missing there, or set data.folder to a folder without such files, and {name} is downloaded"
        )
    return {split: _read_idx_split(dataset, files, prefix) for split, prefix in IDX_NAMES.items()}


def _find_idx(wanted: list[str], folders: list[Path]) -> dict[str, Path]:
    """Files of the first folder that has any: name without .gz to path. Archives first: they carry a checksum."""
    for folder in folders:
        found = {}
        for name in wanted:
            path = next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)
            if path is not None:
                found[name] = path
        if found:
            return found
    return {}


def _read_idx_split(dataset: Any, files: dict[str, Path], prefix: str) -> LabelledImages:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    image_file, label_file = files[f"{prefix}-images-idx3-ubyte"], files[f"{prefix}-labels-idx1-ubyte"]
    images = _read_idx(read_image_file, image_file)[..., None]
    labels = _read_idx(read_label_file, label_file)
    if len(images) != len(labels):
        raise UserError(
            f"{image_file} holds {len(images)} images but {label_file} {len(labels)} labels; {_fetch_again(label_file)}"
        )
    if len(labels) and labels.max() >= len(dataset.classes):
        raise UserError(
            f"{label_file} holds the label {labels.max()}, but there are {len(dataset.classes)} classes; "
            f"{_fetch_again(label_file)}"
        )
    return LabelledImages(images, labels, tuple(dataset.classes))


def _read_idx(reader: Any, path: Path) -> np.ndarray:
    """An IDX file by torchvision's reader, which wants it unpacked."""
    with tempfile.TemporaryDirectory(prefix="genforge-") as folder:
        try:
            plain = path
            if path.suffix == ".gz":
                plain = Path(folder) / path.stem
                with gzip.open(path) as packed, plain.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
            return reader(str(plain)).numpy()
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be unpacked ({error}); {_fetch_again(path)}") from None
        except (AssertionError, RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
            # The reader has no error of its own: it asserts, indexes and reshapes.
            raise UserError(
                f"{path} is not a whole IDX file ({error or type(error).__name__}); {_fetch_again(path)}"
            ) from None


def _load_cifar(dataset: Any, folder: Path, downloads: Path) -> dict[str, LabelledImages]:
    """CIFAR-10 in the Python version: a folder of batches, or the archive that it comes in."""
    from torchvision.datasets.utils import check_integrity, extract_archive

    here = folder.parent if folder.name == CIFAR_FOLDER else folder
    root = here if (here / CIFAR_FOLDER).is_dir() else None
    if root is None and (archive := folder / CIFAR_ARCHIVE).is_file():
        if not check_integrity(str(archive), dataset.tgz_md5):
            raise UserError(f"{archive} does not have the MD5 sum {dataset.tgz_md5}; {_fetch_again(archive)}")
        extract_archive(str(archive), str(downloads))
        root = downloads
    if root is None:
        _download(dataset, downloads, f"{CIFAR_ARCHIVE} into {folder}")
        root = downloads
    for file, sum_ in [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]:
        path = root / CIFAR_FOLDER / file
        if not check_integrity(str(path), sum_):
            what = f"does not have the MD5 sum {sum_}" if path.is_file() else "is missing"
            raise UserError(f"{path} {what}; {_fetch_again(path)}")
    splits = {}
    for split in ("train", "test"):
        data = dataset(str(root), train=split == "train")
        splits[split] = LabelledImages(
            np.ascontiguousarray(data.data), np.asarray(data.targets, np.int64), tuple(data.classes)
        )
    return splits


def _download(dataset: Any, downloads: Path, by_hand: str) -> None:
    say(f"downloading {dataset.__name__} into {downloads}")
    try:
        dataset(str(downloads), train=True, download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{dataset.__name__} cannot be downloaded ({reason}); mend the network, or put {by_hand} by hand, which is "
            f"then read without a network"
        ) from None


def _fetch_again(path: Path) -> str:
    return f"delete or replace {path.name}: it is downloaded again when none of its kind is there"
