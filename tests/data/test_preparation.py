"""What `prepare` writes, and that it depends on contents alone."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from genforge.config import DataSettings
from genforge.data import decoding_pool
from genforge.data.decoding import content_digest
from genforge.data.loading import Prepared
from genforge.data.preparation import prepare
from genforge.data.sources import Places, ingest
from genforge.files import digest_file, read_json
from genforge.settings import UserError

CLASSES = ("cat", "dog")


def picture(seed: int, side: int = 8, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def pictures(count: int = 40, **options: object) -> dict[str, bytes]:
    return {f"{CLASSES[i % 2]}/{i:03d}.png": png(picture(i, **options)) for i in range(count)}  # type: ignore[arg-type]


def prepared(base: Path, folder: Path, seed: int = 0, least_test: int = 0, **settings: object) -> Path:
    checked = DataSettings.read({"source": "image_folder", **settings}, "data")
    raw, out = base / "raw", base / "prepared"
    for place in (raw, out):
        place.mkdir(parents=True)
    ingest(checked, Places(folder, base / "downloads", seed), raw)
    prepare(raw, folder, out, checked, seed, least_test=least_test, processes=2)
    return out


def test_every_split_holds_the_pixels_of_its_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", pictures())
    data = Prepared.open(prepared(tmp_path, folder))
    manifest = pl.read_parquet(data.folder / "manifest.parquet")
    assert data.classes == CLASSES and (data.shape.channels, data.shape.height, data.shape.width) == (3, 8, 8)
    for split in ("train", "validation", "test"):
        expected = {
            (folder / row["path"]).read_bytes(): row["label"] for row in manifest.filter(split=split).to_dicts()
        }
        found = {
            png(Image.fromarray(image)): CLASSES[label]
            for image, label in zip(data.images(split), data.labels(split), strict=True)
        }
        assert found == expected and len(expected) == data.count(split) > 0
    assert manifest["digest"].to_list() == [digest_file(folder / path) for path in manifest["path"]]
    assert not (data.folder / "scratch.bin").exists()


def test_a_split_s_first_images_are_like_the_rest(tmp_path: Path) -> None:
    """They stand in the order of their contents' digests, which knows no class. In that of lots, with which each class
    fills its splits, a split would begin with the classes whose lots happen to begin there sooner."""
    out = prepared(tmp_path, folder_of(tmp_path / "images", pictures(60)))
    for split in ("train", "validation", "test"):
        contents = [content_digest(memoryview(image.tobytes()), 3) for image in Prepared.open(out).images(split)]
        assert len(contents) > 3 and contents == sorted(contents)


def test_names_and_order_of_files_change_nothing(tmp_path: Path) -> None:
    files = pictures()
    names = list(files)
    renamed = {f"{name.partition('/')[0]}/sub/{hash(name) % 997}-{i}.png": files[name] for i, name in enumerate(names)}
    outs = [
        prepared(tmp_path / "a", folder_of(tmp_path / "one", files)),
        prepared(tmp_path / "b", folder_of(tmp_path / "two", renamed)),
        prepared(tmp_path / "c", tmp_path / "one"),
    ]
    assert len({Prepared.open(out).digest for out in outs}) == 1
    for name in ("train-images.npy", "test-labels.npy", "samples.png"):
        assert len({(out / name).read_bytes() for out in outs}) == 1
    assert {path.name: path.read_bytes() for path in outs[0].iterdir()} == {
        p.name: p.read_bytes() for p in outs[2].iterdir()
    }
    other = prepared(tmp_path / "d", tmp_path / "one", seed=1)
    assert Prepared.open(other).digest != Prepared.open(outs[0]).digest


def test_broken_inputs_are_quarantined_and_the_rest_goes_on(tmp_path: Path) -> None:
    files = pictures()
    whole = files["cat/000.png"]
    files |= {"cat/cut.png": whole[:99], "cat/empty.png": b"", "dog/text.png": b"hello", "dog/again.png": whole}
    files |= {"cat/copy.bmp": b"BMx", "notes/why.txt": b"a class without any image"}
    data = Prepared.open(prepared(tmp_path, folder_of(tmp_path / "in", files), max_broken_share=0.2))
    card = data.card
    assert card["counts"] == {"inputs": 46, "kept": 40, "duplicate": 1, "quarantined": 5}
    assert card["quarantine"] == {"not an image": 2, "damaged": 1, "empty file": 1, "truncated": 1}
    assert card["duplicates"] == {"same pixels under another label": 1}
    assert sum(card["splits"].values()) == 40
    assert data.classes == CLASSES and card["empty_classes"] == ["notes"]
    assert {split: sum(classes.values()) for split, classes in card["class_balance"].items()} == card["splits"]


def test_too_many_broken_ones_stop_the_run_with_counts(tmp_path: Path) -> None:
    files = pictures() | {f"cat/{i}.txt": b"hello" for i in range(7)} | {"cat/e.png": b""}
    with pytest.raises(UserError, match=r"8 of 48 inputs are broken(.|\n)*not an image: 7(.|\n)*empty file: 1"):
        prepared(tmp_path, folder_of(tmp_path / "in", files))


def test_a_file_that_kills_its_process_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = tmp_path / "poison"
    poison.mkdir()
    # What Python runs at start-up makes one content deadly to whoever takes its digest.
    (poison / "sitecustomize.py").write_text(
        "import hashlib, os, signal\n"
        "whole = hashlib.blake2b\n"
        "def deadly(data=b'', **options):\n"
        "    if bytes(data).endswith(b'deadly'): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return whole(data, **options)\n"
        "hashlib.blake2b = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(poison), os.environ.get("PYTHONPATH", "")]))
    files = pictures() | {"cat/bad.png": png(picture(99)) + b"deadly"}
    card = Prepared.open(prepared(tmp_path, folder_of(tmp_path / "in", files))).card
    assert card["quarantine"] == {"crashed the decoder": 1} and card["counts"]["kept"] == 40


def test_a_worker_that_does_not_start_is_no_fault_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_pool.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="does not start"):
        prepared(tmp_path, folder_of(tmp_path / "in", pictures()))


def test_gray_images_stay_one_channel_unless_told_otherwise(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", pictures(mode="L"))
    gray, colour = (
        Prepared.open(prepared(tmp_path / "a", folder)),
        Prepared.open(prepared(tmp_path / "b", folder, channels=3)),
    )
    assert gray.shape.channels == 1 and colour.shape.channels == 3
    assert np.array_equal(gray.images("train").repeat(3, axis=3), colour.images("train"))
    single = Prepared.open(prepared(tmp_path / "c", folder, channels=1))
    assert np.array_equal(single.images("train"), gray.images("train")) and single.digest == gray.digest


def test_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    files = pictures() | {f"cat/large{i}.png": png(picture(100 + i, side=20)) for i in range(9)}
    folder = folder_of(tmp_path / "in", files)
    with pytest.raises(UserError, match=r"2 sizes: 8 x 8 \(40\), 20 x 20 \(9\); set data.image_size"):
        prepared(tmp_path / "a", folder)
    data = Prepared.open(prepared(tmp_path / "b", folder, image_size=12))
    assert data.shape.height == 12 and data.card["counts"]["kept"] == 49


def test_a_single_image_of_another_size_is_put_aside(tmp_path: Path) -> None:
    files = pictures() | {"cat/large.png": png(picture(100, side=20))}
    card = Prepared.open(prepared(tmp_path, folder_of(tmp_path / "in", files))).card
    assert card["quarantine"] == {"another size": 1}


@pytest.mark.parametrize(
    ("width", "height", "message"), [(8, 12, "square"), (10, 10, "multiple of 4"), (100, 100, "8 to 64")]
)
def test_shapes_that_networks_do_not_take_are_an_error(tmp_path: Path, width: int, height: int, message: str) -> None:
    files = {f"{i}.png": png(picture(i, side=100).crop((0, 0, width, height))) for i in range(20)}
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, folder_of(tmp_path / "in", files))


def test_images_without_labels(tmp_path: Path) -> None:
    data = Prepared.open(
        prepared(tmp_path, folder_of(tmp_path / "in", {f"{i}.png": png(picture(i)) for i in range(30)}))
    )
    assert data.classes == () and data.labels("train") is None and data.count("test") == 9


def test_a_test_split_that_is_too_small_for_the_judge_is_an_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", {f"{i}.png": png(picture(i)) for i in range(200)})
    with pytest.raises(
        UserError, match=r"holds 60 images, but evaluation.images is 61.*set evaluation.images to 60 or fewer"
    ):
        prepared(tmp_path, folder, least_test=61)


def test_no_content_stands_twice(tmp_path: Path) -> None:
    files = pictures()
    files |= {f"{path[:4]}copy-{i}.bmp": b"" for i, path in enumerate(files)}
    for i, path in enumerate(list(files)[:40]):
        copy = io.BytesIO()
        Image.open(io.BytesIO(files[path])).save(copy, "BMP")  # other bytes, same pixels
        files[f"{path[:4]}copy-{i}.bmp"] = copy.getvalue()
    data = Prepared.open(prepared(tmp_path, folder_of(tmp_path / "in", files)))
    everything = np.concatenate([data.images(split) for split in ("train", "validation", "test")])
    assert len(np.unique(everything.reshape(len(everything), -1), axis=0)) == len(everything) == 40
    assert data.card["duplicates"] == {"same pixels": 40}


def test_the_card_has_the_moments_of_the_training_split(tmp_path: Path) -> None:
    data = Prepared.open(prepared(tmp_path, folder_of(tmp_path / "in", pictures())))
    images = data.images("train") / 255.0
    assert np.allclose(data.card["mean"], images.mean(axis=(0, 1, 2)), atol=1e-6)
    assert np.allclose(data.card["std"], images.std(axis=(0, 1, 2)), atol=1e-6)


def test_arrays_are_prepared_by_the_same_rules(tmp_path: Path) -> None:
    settings = DataSettings.read({"source": "digits"}, "data")
    outs = []
    for name, size in (("own", None), ("larger", 16)):
        raw, out = tmp_path / name / "raw", tmp_path / name / "prepared"
        for place in (raw, out):
            place.mkdir(parents=True)
        sized = settings.model_copy(update={"image_size": size})
        ingest(sized, Places(tmp_path, tmp_path, 0), raw)
        prepare(raw, tmp_path, out, sized, 0, least_test=500)
        outs.append(Prepared.open(out))
    own, larger = outs
    assert (own.shape.channels, own.shape.height, larger.shape.height) == (1, 8, 16)
    assert sum(own.card["splits"].values()) == own.card["counts"]["kept"] == 1797 and own.count("test") >= 500
    manifest = pl.read_parquet(own.folder / "manifest.parquet")
    raw_images = np.load(tmp_path / "own" / "raw" / "all-images.npy")
    rows = manifest.with_row_index("row").filter(split="test")["row"].to_list()
    assert {image.tobytes() for image in raw_images[rows]} == {image.tobytes() for image in own.images("test")}


def test_factors_stay_with_their_tins(tmp_path: Path) -> None:
    from genforge.data import tins

    data = Prepared.open(prepared(tmp_path, tmp_path, source="tins", count=60))
    for split in ("train", "test"):
        factors = data.factors(split)
        assert factors is not None and np.array_equal(tins.draw(factors, 32), data.images(split))
    assert data.classes == () and read_json(data.folder / "card.json")["factors"] == list(tins.FACTORS)
