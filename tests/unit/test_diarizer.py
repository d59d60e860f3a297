"""The diarizer among jobs, without a pipeline; and what is said where there is none."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from services.worker.engine import speaker_models
from services.worker.engine.diarization import Diarizer, Watch
from services.worker.engine.protocol import EngineSettings
from services.worker.engine.speaker_clusters import Bounds, Found, Heard, Rules
from services.worker.pipeline.recording import PreparedRecording
from services.worker.work import Options

BUNDLED = Path(__file__).parents[2] / "models"


class GivenUpError(Exception):
    pass


class NoClusters:
    def find(self, heard: Heard, rules: Rules, bounds: Bounds, check: object) -> Found:
        raise AssertionError("there is nothing to cluster")


def test_a_job_that_waits_for_the_pipeline_can_be_given_up(tmp_path: Path) -> None:
    settings = EngineSettings("demo", BUNDLED, diarization_model="demo")
    diarizer = Diarizer(settings, "cpu", lambda: None, NoClusters())  # nobody loads it
    given_up = threading.Event()

    def check() -> None:
        if given_up.is_set():
            raise GivenUpError

    watch = Watch(check, lambda _: None, lambda _: None)
    with ThreadPoolExecutor(1) as threads:
        recording = PreparedRecording(tmp_path / "spool", 16_000, ())
        waiting = threads.submit(diarizer.speakers, recording, Options(), watch)
        given_up.set()
        with pytest.raises(GivenUpError):
            waiting.result(timeout=10)


def _refusal(kind: type[HfHubHTTPError], status: int, repository: str) -> HfHubHTTPError:
    url = f"https://huggingface.co/{repository}/resolve/main/config.yaml"
    response: Any = SimpleNamespace(status_code=status, headers={}, request=SimpleNamespace(url=url))
    return kind(f"{status} Client Error. Cannot access gated repo for url {url}.", response=response)


COMMUNITY = speaker_models.HUB_PIPELINE


@pytest.mark.parametrize(
    ("error", "has_token", "said"),
    [
        (_refusal(GatedRepoError, 401, COMMUNITY), False, ["HF_TOKEN is not set", COMMUNITY, "settings/tokens"]),
        (_refusal(GatedRepoError, 403, COMMUNITY), True, ["account that HF_TOKEN", COMMUNITY, "fine-grained"]),
        (
            _refusal(GatedRepoError, 403, "pyannote/segmentation-3.0"),
            True,
            ["account that HF_TOKEN", "https://huggingface.co/pyannote/segmentation-3.0 "],
        ),
        (_refusal(RepositoryNotFoundError, 401, COMMUNITY), True, ["refuses HF_TOKEN", "settings/tokens"]),
        (_refusal(HfHubHTTPError, 403, COMMUNITY), True, ["refuses HF_TOKEN", COMMUNITY]),
        (speaker_models.NotGivenOutError("no"), False, ["HF_TOKEN is not set", COMMUNITY]),
        (FileNotFoundError("/secret/place/config.yaml"), True, ["WORKER_DIARIZATION_MODEL", "FileNotFoundError"]),
    ],
)
def test_why_there_is_no_pipeline_says_which_page_to_accept_and_what_to_set(
    error: Exception, has_token: bool, said: list[str]
) -> None:
    message = speaker_models.failure(COMMUNITY, error, has_token)
    assert all(part in message for part in said), message
    assert "/secret/place" not in message
    if "HF_TOKEN" in said[0]:
        assert "https://huggingface.co/" in message


def test_without_a_token_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_models, "get_token", lambda: None)
    monkeypatch.setattr(speaker_models, "try_to_load_from_cache", lambda *_: None)
    name, error = speaker_models.choose(EngineSettings("turbo", BUNDLED))
    assert name == ""
    assert f"https://huggingface.co/{COMMUNITY}" in error
    assert "set HF_TOKEN" in error


def test_with_a_token_it_is_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_models, "get_token", lambda: None)
    monkeypatch.setattr(speaker_models, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(speaker_models.constants, "HF_HUB_OFFLINE", False)
    assert speaker_models.choose(EngineSettings("turbo", BUNDLED, hf_token="hf_x")) == (COMMUNITY, "")


def test_a_revision_is_of_what_a_folder_holds(tmp_path: Path) -> None:
    settings = EngineSettings("large-v3", tmp_path)
    first, second = tmp_path / "first" / "models", tmp_path / "second" / "models"
    for folder in (first, second):
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("pipeline: one")
    before = speaker_models.revision(str(first), settings)
    assert before == speaker_models.revision(str(second), settings)
    (first / "config.yaml").write_text("pipeline: two")
    assert speaker_models.revision(str(first), settings) != before
    assert speaker_models.revision(COMMUNITY, settings) == COMMUNITY
    assert speaker_models.revision("", settings) == ""
