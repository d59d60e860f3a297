"""The diarizer among jobs, without a pipeline; and what is said where there is none."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from services.worker.engine import diarization, speaker_models
from services.worker.engine.diarization import AGAIN_SECONDS, Diarizer, Watch, _placed
from services.worker.engine.protocol import EngineSettings
from services.worker.engine.speaker_clusters import Bounds, Found, Heard, Rules
from services.worker.pipeline.faults import WorkError
from services.worker.pipeline.recording import PreparedRecording
from services.worker.pipeline.speaker_chunks import Chunk
from services.worker.pipeline.windows import SAMPLE_RATE, Span, SpeechWindow
from services.worker.work import Options, SpeakerTurn, VoiceTurn

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

    watch = Watch(check)
    with ThreadPoolExecutor(1) as threads:
        recording = PreparedRecording(tmp_path / "spool", 16_000, ())
        waiting = threads.submit(diarizer.speakers, recording, Options(), watch)
        given_up.set()
        with pytest.raises(GivenUpError):
            waiting.result(timeout=10)


def test_on_a_cpu_transcription_goes_first() -> None:
    settings = EngineSettings("demo", BUNDLED, diarization_model="demo")
    threads = Diarizer(settings, "cpu", lambda: None, NoClusters())._threads
    asked = threads.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert asked.result(10) == max(diarization._NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
    threads.shutdown()


def _refusal(kind: type[HfHubHTTPError], status: int, repository: str) -> HfHubHTTPError:
    url = f"https://huggingface.co/{repository}/resolve/main/config.yaml"
    return kind(f"{status} Client Error. Cannot access gated repo for url {url}.", response=_response(status, url))


def _response(status: int, url: str = "") -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=SimpleNamespace(url=url))


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
        (_refusal(HfHubHTTPError, 403, COMMUNITY), True, ["account that HF_TOKEN", COMMUNITY, "fine-grained"]),
        (
            HfHubHTTPError("See https://huggingface.co/docs/huggingface_hub", response=_response(403)),
            True,
            ["account that HF_TOKEN", f"https://huggingface.co/{COMMUNITY} "],
        ),
        (speaker_models.NotGivenOutError("no"), False, ["HF_TOKEN is not set", COMMUNITY]),
        (FileNotFoundError("/secret/place/config.yaml"), True, ["WORKER_DIARIZATION_MODEL", "FileNotFoundError"]),
        (LocalEntryNotFoundError("no network"), True, ["hub does not answer", "tried again", "HF_HOME"]),
        (_refusal(HfHubHTTPError, 503, COMMUNITY), True, ["hub does not answer", "tried again"]),
        (_refusal(HfHubHTTPError, 429, COMMUNITY), False, ["hub does not answer", "tried again"]),
        (OfflineModeIsEnabled("offline"), True, ["hub does not answer", "tried again"]),
    ],
)
def test_why_there_is_no_pipeline_says_which_page_to_accept_and_what_to_set(
    error: Exception, has_token: bool, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaker_models.constants, "HF_HUB_OFFLINE", False)
    message = speaker_models.failure(COMMUNITY, error, token=has_token)
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


def test_without_network_by_choice_that_is_said_and_no_token_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_models, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(speaker_models.constants, "HF_HUB_OFFLINE", True)
    name, error = speaker_models.choose(EngineSettings("turbo", BUNDLED, hf_token="hf_x"))
    assert name == ""
    assert "HF_HUB_OFFLINE" in error
    assert "HF_TOKEN" not in error
    assert error == speaker_models.failure(COMMUNITY, LocalEntryNotFoundError("no"), token=True)
    assert not speaker_models.is_passing(LocalEntryNotFoundError("no"))


class Hub:
    """What stands for loading the pipeline: raises ``errors`` one by one, then gives one out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
        self.errors = list(errors)
        self.now = 0.0
        self.told = 0
        monkeypatch.setattr(speaker_models.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(speaker_models, "load", self._load)
        monkeypatch.setattr(Diarizer, "_use", lambda diarizer, pipeline: None)
        self.settings = EngineSettings("turbo", BUNDLED, diarization_model=COMMUNITY, hf_token="hf_x")
        self.diarizer = Diarizer(self.settings, "cpu", self._changed, NoClusters(), lambda: self.now)
        self.diarizer.load()

    def _load(self, *_: object) -> object:
        if self.errors:
            raise self.errors.pop(0)
        return object()

    def _changed(self) -> None:
        self.told += 1

    def later(self, seconds: float) -> None:
        """As the frame does it, every ten seconds."""
        until = self.now + seconds
        while self.now < until:
            self.now += 10.0
            self.diarizer.load_again()

    def until_asked_again(self) -> None:
        self.now = self.diarizer._again
        self.diarizer.load_again()

    @property
    def makes_jobs_wait(self) -> bool:
        return not self.diarizer._tried.is_set()


def test_where_the_hub_does_not_answer_jobs_wait_and_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long: a night's outage is no fault of theirs."""
    hub = Hub(monkeypatch, *[LocalEntryNotFoundError("no network")] * 200)
    hub.later(12 * 3600)
    assert hub.makes_jobs_wait
    assert (hub.diarizer.ready_name, hub.diarizer.error) == ("", "")
    assert "hub does not answer" in hub.diarizer.note
    hub.diarizer.require()
    assert 50 < len(hub.errors) < 150, "asked the more rarely the longer it does not"
    hub.errors.clear()
    hub.later(AGAIN_SECONDS[1])
    assert not hub.makes_jobs_wait
    assert (hub.diarizer.ready_name, hub.diarizer.error, hub.diarizer.note) == (COMMUNITY, "", "")


def test_a_pipeline_that_is_to_be_downloaded_is_told_of_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, its jobs would hold slots in which others could run."""
    hub = Hub(monkeypatch)
    assert hub.diarizer.ready_name == COMMUNITY
    waiting = Diarizer(hub.settings, "cpu", lambda: None, NoClusters())
    assert (waiting.ready_name, waiting.error) == ("", "")
    monkeypatch.setattr(speaker_models, "_cached", lambda name: Path("cache/snapshots/abc/config.yaml"))
    assert Diarizer(hub.settings, "cpu", lambda: None, NoClusters()).ready_name == COMMUNITY


def test_a_job_in_hand_is_told_what_it_waits_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that holds a slot although the pipeline is not there, since it was to be told apart by channel."""
    hub = Hub(monkeypatch, LocalEntryNotFoundError("no network"))
    told: list[str] = []
    known = threading.Event()

    def waiting_for(what: str) -> None:
        told.append(what)
        known.set()

    watch = Watch(waiting=waiting_for)
    with ThreadPoolExecutor(1) as threads:
        half_a_second = PreparedRecording(tmp_path / "spool", 4_000, ())
        found = threads.submit(hub.diarizer.speakers, half_a_second, Options(), watch)
        assert known.wait(10)
        hub.until_asked_again()
        assert found.result(timeout=10).turns == ()
    (what,) = told
    assert "hub does not answer" in what


def test_where_the_terms_are_to_be_accepted_jobs_are_refused_until_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the hub does not answer when it is asked again."""
    hub = Hub(monkeypatch, _refusal(GatedRepoError, 403, COMMUNITY), LocalEntryNotFoundError("no network"))
    for _ in range(2):
        assert not hub.makes_jobs_wait
        with pytest.raises(WorkError, match="Accept the terms") as refused:
            hub.diarizer.require()
        assert refused.value.reason == "DIARIZATION_UNAVAILABLE"
        hub.until_asked_again()
    assert hub.diarizer.error == ""
    assert hub.diarizer.ready_name == COMMUNITY


@pytest.mark.parametrize("speech", [True, False])
def test_of_less_than_half_a_second_all_is_one_speakers(tmp_path: Path, speech: bool) -> None:
    diarizer = Diarizer(EngineSettings("demo", BUNDLED, diarization_model="demo"), "cpu", lambda: None, NoClusters())
    diarizer._tried.set()
    windows = (SpeechWindow(0, (Span(1_000, 7_000),)),) if speech else ()
    found = diarizer.speakers(PreparedRecording(tmp_path / "spool", 7_840, windows), Options(), Watch())
    assert found.turns == found.exclusive
    assert found.turns == ((SpeakerTurn(0.0, 0.49, "SPEAKER_00"),) if speech else ())


def test_no_turn_ends_behind_the_recording() -> None:
    """Its last window is filled up with silence."""
    turns = (VoiceTurn(0.5, 1.0, 0), VoiceTurn(9.0, 10.05, 1), VoiceTurn(10.01, 10.05, 0))
    found = _placed(Found((), turns, turns), Chunk(1, 20 * SAMPLE_RATE, 10 * SAMPLE_RATE), 30.0)
    assert found.turns == found.exclusive == (VoiceTurn(20.5, 21.0, 0), VoiceTurn(29.0, 30.0, 1))


class SmallDevice:
    """Models that hear at most so many windows at once, and say how many they were given."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.given: list[int] = []

    def listen(self, windows: Any, check: object) -> Heard:
        self.given.append(len(windows))
        if len(windows) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        count = len(windows)
        return Heard(*(np.zeros((count, 2)) for _ in fields(Heard)))


def test_a_device_that_had_no_room_for_so_many_windows_is_given_fewer_from_then_on(tmp_path: Path) -> None:
    import_module("torch")  # whose streams its threads use
    settings = EngineSettings("demo", BUNDLED, diarization_model="demo")
    diarizer = Diarizer(settings, "cuda", lambda: None, NoClusters())
    models: Any = SmallDevice(10)
    diarizer._models = models
    (tmp_path / "spool").write_bytes(bytes(2 * 16_000 * 100))
    recording = PreparedRecording(tmp_path / "spool", 16_000 * 100, ())
    grid: Any = SimpleNamespace(
        count=70, span=lambda first, end: (first, end - first), cut=lambda piece, count: range(count)
    )
    for _ in range(2):
        heard = diarizer._heard(recording, Chunk(0, 0, 16_000 * 100), grid, lambda: None, lambda share: None)
        assert all(len(getattr(heard, one.name)) == 70 for one in fields(Heard))
    assert models.given[0] == 32
    assert max(models.given[-9:]) == 8
    assert models.given.count(32) == 1


@pytest.mark.parametrize(("full", "has_room"), [(diarization.ROOM_TRIES, True), (diarization.ROOM_TRIES + 1, False)])
def test_a_single_window_waits_a_little_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int, has_room: bool
) -> None:
    monkeypatch.setattr(diarization, "ROOM_SECONDS", 0.0)
    diarizer = Diarizer(EngineSettings("demo", BUNDLED, diarization_model="demo"), "cpu", lambda: None, NoClusters())
    given: list[int] = []

    class FullDevice(SmallDevice):
        def listen(self, windows: Any, check: object) -> Heard:
            given.append(len(windows))
            self.most = 0 if len(given) <= full else 1
            return super().listen(windows, check)

    models: Any = FullDevice(0)
    diarizer._models = models
    (tmp_path / "spool").write_bytes(bytes(2 * 16_000))
    recording = PreparedRecording(tmp_path / "spool", 16_000, ())
    grid: Any = SimpleNamespace(span=lambda first, end: (first, end - first), cut=lambda piece, count: range(count))
    if has_room:
        assert len(diarizer._listen(recording, Chunk(0, 0, 16_000), grid, 0, 1, lambda: None).scores) == 1
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            diarizer._listen(recording, Chunk(0, 0, 16_000), grid, 0, 1, lambda: None)


def test_a_pipeline_for_which_there_is_no_room_now_is_waited_for() -> None:
    error = RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
    assert speaker_models.is_passing(error)
    assert not speaker_models.is_passing(ImportError("libgomp.so: cannot allocate memory in static TLS block"))
    said = speaker_models.failure("pyannote/some", error, token=True)
    assert "the device has no room for it" in said
    assert "lower WORKER_BATCH_SIZE" in said


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
    assert speaker_models.revision("", settings) == ""


def test_a_revision_of_the_hub_is_its_commit_once_it_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EngineSettings("large-v3", tmp_path)
    monkeypatch.setattr(speaker_models.constants, "HF_HUB_CACHE", str(tmp_path))
    assert speaker_models.revision(COMMUNITY, settings) == COMMUNITY
    assert not speaker_models.is_here(COMMUNITY, settings)
    folder = tmp_path / f"models--{COMMUNITY.replace('/', '--')}"
    for commit in ("a" * 40, "b" * 40):
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.yaml").write_text("pipeline: one")
        assert speaker_models.revision(COMMUNITY, settings) == f"{COMMUNITY} {commit[:16]}"
    assert speaker_models.is_here(COMMUNITY, settings)
    assert not speaker_models.is_here("no/such/name", settings)
    assert not speaker_models.is_here("", settings)
