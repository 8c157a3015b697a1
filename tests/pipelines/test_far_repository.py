"""A repository that is a URL, and images that are imported from another one: what a schedule on many machines has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from genforge.settings import UserError
from pipelines import new_data
from pipelines import workplace as places
from pipelines.stages import Processes
from pipelines.workplace import workplace
from tests.pipelines import small_project as small


def test_a_machine_has_the_password_of_a_repository_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes through a Prefect server has none; what git is given here does, and what people read does not."""
    monkeypatch.setenv("GENFORGE_WORKPLACES", str(tmp_path / "clones"))
    monkeypatch.setenv("GENFORGE_REPOSITORY", "http://ada:secret@127.0.0.1:9/team/images.git")
    asked: list[tuple[str, ...]] = []

    def run(folder: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 128, "", f"fatal: unable to access {words[-2]!r}")

    monkeypatch.setattr(places, "_run", run)
    with pytest.raises(UserError, match=r"unable to access 'http://127") as error:
        with workplace("http://127.0.0.1:9/team/images.git"):
            pass
    assert asked == [("ls-remote", "--symref", "http://ada:secret@127.0.0.1:9/team/images.git", "HEAD")]
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_a_repository_by_url_whose_images_are_imported_from_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images' owners commit new ones; the next run of the project has them, without anybody's folder."""
    for name, value in small.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "GENFORGE_WORKPLACES"):
        monkeypatch.delenv(name, raising=False)
    library = small.make(tmp_path / "library" / "project", images=3)
    small.run(library, "dvc", "push", "--quiet")
    project = tmp_path / "project"
    project.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        (project / name).write_text((library / name).read_text())
    small.initialise(project)
    small.run(project, "dvc", "remote", "modify", "storage", "url", str(tmp_path / "remote"))
    small.run(project, "dvc", "import", "--quiet", str(library), small.IMAGES)
    small.commit(project, "images of the library")
    url = project.as_uri()

    with pytest.raises(UserError, match="GENFORGE_WORKPLACES should name a folder"), workplace(url):
        pass
    monkeypatch.setenv("GENFORGE_WORKPLACES", str(tmp_path / "clones"))
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI should name the server"), workplace(url):
        pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing here asks it

    def images() -> tuple[int, str, tuple[str, ...]]:
        processes = Processes()
        with workplace(url) as place:
            assert not place.is_local and place.folder == tmp_path / "clones" / "1"
            brought = new_data.bring(place, processes)
            return len(list((place.folder / small.IMAGES).iterdir())), brought.words, brought.files

    assert images() == (3, f"my-images, imported from {library}", ("my-images.dvc",))
    small.draw_images(library / small.IMAGES, 2, seed=5)
    small.run(library, "dvc", "add", "--quiet", small.IMAGES)
    small.run(library, "dvc", "push", "--quiet")
    small.commit(library, "two more")
    assert images()[0] == 5
