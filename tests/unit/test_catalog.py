"""Which models a worker offers, and that a name never leads out of the folder of models."""

from __future__ import annotations

from pathlib import Path

import pytest
from faster_whisper.utils import _MODELS

from services.worker.engine.catalog import HUB_MODELS, ModelSource, english_only, offered, resolve
from services.worker.engine.protocol import EngineSettings


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """Two models, one of which the hub has too; a folder that is none; a file; and a model beside all this."""
    folder = tmp_path / "models"
    for name in ("ours", "tiny", "../outside"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.bin").touch()
    (folder / "notes").mkdir()
    (folder / "model.bin").touch()
    return folder


def settings(model_dir: Path | None = None, default: str = "large-v3", models: tuple[str, ...] = ()) -> EngineSettings:
    return EngineSettings(default, Path("bundled"), models, model_dir)


def test_the_names_of_the_hub_are_those_of_the_installed_faster_whisper() -> None:
    assert HUB_MODELS == _MODELS


def test_everything_known_is_offered_unless_names_are_given(model_dir: Path) -> None:
    assert offered(settings(model_dir)) == (
        "large-v3",
        "ours",
        "tiny",
        "demo",
        *(n for n in HUB_MODELS if n not in ("large-v3", "tiny")),
    )
    assert offered(settings()) == ("large-v3", "demo", *(name for name in HUB_MODELS if name != "large-v3"))
    assert offered(settings(model_dir, "ours", ("turbo", "ours"))) == ("ours", "turbo")


def test_the_default_model_is_first_and_there_once() -> None:
    assert offered(settings(default="tiny", models=("base", "tiny", "base"))) == ("tiny", "base")


def test_a_model_folder_goes_before_the_hub(model_dir: Path) -> None:
    assert resolve("ours", settings(model_dir)) == ModelSource(folder=model_dir / "ours")
    assert resolve("tiny", settings(model_dir)) == ModelSource(folder=model_dir / "tiny")
    assert resolve("tiny", settings()) == ModelSource(repository="Systran/faster-whisper-tiny")


def test_the_demo_model_is_the_bundled_one() -> None:
    assert resolve("demo", settings()) == ModelSource(folder=Path("bundled", "whisper-demo"))


def test_two_names_of_one_repository_are_one_source() -> None:
    assert resolve("turbo", settings()) == resolve("large-v3-turbo", settings())
    assert resolve("large-v2", settings()) != resolve("large-v3", settings())


def test_another_repository_of_the_hub_is_taken_as_it_is() -> None:
    assert resolve("someone/whisper-swiss", settings()) == ModelSource(repository="someone/whisper-swiss")


@pytest.mark.parametrize("name", ["", "unknown", "Tiny", "notes", "model.bin"])
def test_a_name_that_nothing_has_is_none(name: str, model_dir: Path) -> None:
    assert resolve(name, settings(model_dir)) is None


@pytest.mark.parametrize("name", [".", "..", "/", "/etc", "/a", "a/", "a//b", "a/b/c", "../../outside", "..\\outside"])
def test_a_name_like_a_path_is_none(name: str, model_dir: Path) -> None:
    assert resolve(name, settings(model_dir)) is None


@pytest.mark.parametrize("name", ["../outside", "./ours", "ours/.", "ours/..", "models/ours", "ours/model.bin"])
def test_a_name_like_a_path_of_two_parts_is_no_folder(name: str, model_dir: Path) -> None:
    found = resolve(name, settings(model_dir))
    assert found is None or found.folder is None


def test_a_model_folder_that_is_not_there_offers_nothing(tmp_path: Path) -> None:
    assert "ours" not in offered(settings(tmp_path / "nowhere"))
    assert resolve("ours", settings(tmp_path / "nowhere")) is None


def test_models_that_know_english_only_say_so_before_they_are_loaded(model_dir: Path, tmp_path: Path) -> None:
    known = english_only(settings(tmp_path / "nowhere"))
    assert known["demo"] == known["base.en"] == known["distil-small.en"] == ("en",)
    assert not {"base", "turbo", "large-v3"} & set(known)
    own = model_dir / "my.en"
    own.mkdir()
    (own / "model.bin").touch()
    assert "my.en" not in english_only(settings(model_dir)), "only who made it knows"
