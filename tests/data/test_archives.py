"""Archives bring their images, and can neither write outside of their folder nor fill the disk."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from genforge.config import DataSettings
from genforge.data import archives
from genforge.data.archives import Limits, unpack
from genforge.data.loading import Prepared
from genforge.data.preparation import prepare
from genforge.data.sources import Places, ingest
from genforge.settings import UserError

LIMITS = Limits(bytes_a_file=1_000_000, bytes=100_000_000, files=1000, ratio=200)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


FILES = {f"{'cat' if i % 2 else 'dog'}/{i:02d}.png": png(i) for i in range(40)}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the form that its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
        return path
    packing = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, packing) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(data), 0o6777
            archive.addfile(header, io.BytesIO(data))
    return path


def found_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(path: Path, into: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(UserError) as caught:
        unpack(path, into, limits)
    assert str(path) in str(caught.value)
    return str(caught.value)


FORMS = ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_back_its_files_with_modes_of_our_own(tmp_path: Path, form: str) -> None:
    path = pack(tmp_path / f"images.{form}", FILES)
    assert archives.is_archive(path)
    unpacked = unpack(path, tmp_path / "out", LIMITS)
    assert (unpacked.files, unpacked.left_out) == (40, [])
    assert found_in(tmp_path / "out") == FILES
    assert not any(file.stat().st_mode & 0o7111 for file in (tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
@pytest.mark.parametrize("top", ["", "set-1/images/"])
def test_an_archive_is_prepared_as_its_folder_would_be(tmp_path: Path, form: str, top: str) -> None:
    path = pack(tmp_path / f"in.{form}", {"__MACOSX/._a": b"x", **{top + name: data for name, data in FILES.items()}})
    folder = tmp_path / "in"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    data = []
    for number, source in enumerate((path, folder)):
        settings = DataSettings.read({"source": "image_folder"}, "data")
        raw, out = tmp_path / f"raw-{number}", tmp_path / f"prepared-{number}"
        raw.mkdir(), out.mkdir()
        ingest(settings, Places(source, tmp_path, 0), raw)
        prepare(raw, source, out, settings, 0, processes=1)
        data.append(Prepared.open(out))
    assert data[0].digest == data[1].digest and data[0].classes == ("cat", "dog")
    manifest = pl.read_parquet(data[0].folder / "manifest.parquet")
    assert sorted(manifest["path"]) == sorted(top + name for name in FILES)
    assert manifest.filter(verdict="kept").height == 40


@pytest.mark.parametrize("form", ["zip", "tar", "tar.xz"])
@pytest.mark.parametrize(
    "name", ["../owned.png", "cat/../../owned.png", "/tmp/owned.png", "C:\\owned.png", "c:owned.png", "..\\owned.png"]
)
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, form: str, name: str) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    path = pack(tmp_path / "deep" / f"in.{form}", {"a.png": b"x", name: b"x"})
    before = found_in(tmp_path)
    assert "leads outside" in refused(path, tmp_path / "deep" / "deeper" / "out")
    assert set(found_in(tmp_path)) == {*before, "deep/deeper/out/a.png"}


def special(kind: bytes, target: str = "", size: int = 0) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        with tarfile.open(path, "w") as archive:
            header = tarfile.TarInfo("cat/special.png")
            header.type, header.linkname, header.size = kind, target, size
            archive.addfile(header)
            inside = tarfile.TarInfo("cat/special.png/through.png")
            inside.size = 1
            good = tarfile.TarInfo("cat/good.png")
            good.size = 4
            archive.addfile(good, io.BytesIO(b"good"))
        return path

    return make


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "../../.."),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "cat/good.png"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_are_left_out(tmp_path: Path, kind: bytes, target: str) -> None:
    unpacked = unpack(special(kind, target)(tmp_path / "in.tar"), tmp_path / "out", LIMITS)
    assert unpacked.left_out == [("cat/special.png", archives.NO_FILE)]
    assert found_in(tmp_path / "out") == {"cat/good.png": b"good"}


def test_a_link_in_a_zip_is_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc")
        archive.writestr("link/passwd", "owned")
    unpacked = unpack(tmp_path / "in.zip", tmp_path / "out", LIMITS)
    assert unpacked.left_out == [("link", archives.NO_FILE)]
    assert found_in(tmp_path / "out") == {"link/passwd": b"owned"}


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    files = {"a.png": b"a", "more.zip": b"PK", "large.bmp": bytes(1_000_001), "x" * 300: b"x", ".hidden": b"h"}
    for form in ("zip", "tar.gz"):
        unpacked = unpack(pack(tmp_path / f"in.{form}", files), tmp_path / form, LIMITS)
        assert dict(unpacked.left_out) == {
            "more.zip": archives.NESTED,
            "large.bmp": archives.LARGE,
            "x" * 300: archives.LONG,
        }
        assert found_in(tmp_path / form) == {"a.png": b"a"}
        assert any("'more.zip'" in note for note in unpacked.notes())


def test_names_that_come_twice_or_are_file_and_folder(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        for data in (b"1", b"2"):
            header = tarfile.TarInfo("a.png")
            header.size = 1
            archive.addfile(header, io.BytesIO(data))
    assert unpack(tmp_path / "in.tar", tmp_path / "out", LIMITS).left_out == [("a.png", archives.TWICE)]
    assert found_in(tmp_path / "out") == {"a.png": b"1"}
    path = pack(tmp_path / "both.zip", {"a": b"1", "a/b.png": b"2"})
    assert "a file and a folder" in refused(path, tmp_path / "both")


@pytest.mark.parametrize("form", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_bombs_are_ended(tmp_path: Path, form: str) -> None:
    path = pack(tmp_path / f"in.{form}", {f"{i}.bmp": bytes(900_000) for i in range(90)})  # 81 MB
    assert path.stat().st_size < 200_000
    assert "max_unpacked_ratio" in refused(path, tmp_path / "a")
    assert "max_unpacked_bytes" in refused(path, tmp_path / "b", LIMITS._replace(bytes=2_000_000))
    assert "max_unpacked_files" in refused(path, tmp_path / "c", LIMITS._replace(files=50))
    written = sum(len(data) for data in found_in(tmp_path / "b").values())
    assert written <= 2_000_000


def test_a_header_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, 1 << 40
        (tmp_path / "in.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
        assert "has a header of" in refused(tmp_path / "in.tar", tmp_path / str(kind[0]))


@pytest.mark.parametrize("form", FORMS)
def test_damage_is_told(tmp_path: Path, form: str) -> None:
    path = pack(tmp_path / f"in.{form}", FILES)
    whole = path.read_bytes()
    cuts = [0, 10, len(whole) // 3, len(whole) // 2, len(whole) - (2000 if form == "tar" else 5)]
    for number, cut in enumerate(cuts):
        path.write_bytes(whole[: cut // 512 * 512 if form == "tar" and number == 3 else cut])
        if form != "tar" or number != 4:
            refused(path, tmp_path / f"cut-{number}")
    chance = np.random.default_rng(0)
    for number in range(30):
        flipped = bytearray(whole)
        for place in chance.integers(0, len(whole), 5):
            flipped[place] ^= 1 << int(chance.integers(8))
        path.write_bytes(flipped)
        try:  # a bit may stand in an image or where nothing is; never another error, never another place
            unpack(path, tmp_path / f"flip-{number}", LIMITS)
        except UserError as error:
            assert str(path) in str(error)
    assert {entry.name.partition("-")[0] for entry in tmp_path.iterdir()} <= {"cut", "flip", path.name}


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_its_end(tmp_path: Path) -> None:
    path = pack(tmp_path / "in.tar", FILES)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"cat/21.png")
    whole[at] ^= 1
    path.write_bytes(whole)
    assert "damaged" in refused(path, tmp_path / "out")


def test_a_file_that_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "in.rar").write_bytes(b"Rar!")
    settings = DataSettings.read({"source": "image_folder"}, "data")
    with pytest.raises(UserError, match="neither a folder nor an archive"):
        ingest(settings, Places(tmp_path / "in.rar", tmp_path, 0), tmp_path)


def test_an_encrypted_zip_is_told(tmp_path: Path) -> None:
    path = pack(tmp_path / "in.zip", {"a.png": b"a"})
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    path.write_bytes(data)
    assert "without a password" in refused(path, tmp_path / "out")
