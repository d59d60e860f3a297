"""What requests may say, as models: JSON bodies and queries. Unknown fields of a body are refused."""

from __future__ import annotations

from typing import Annotated, Self, TypeVar

from aiohttp import web
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from gateway.answers import Status
from gateway.transcripts import Format
from services.contract.errors import Reason, ServiceError

LAST_EVENT = 2**63 - 1
LONGEST_DIARIZATION_SECONDS = 7 * 24 * 3600

Model = TypeVar("Model", bound=BaseModel)


def _without_nul(text: str) -> str:
    if "\0" in text:  # which PostgreSQL cannot hold
        raise PydanticCustomError("nul", "Text should not contain the character U+0000")
    return text


def _language(code: str) -> str:
    code = code.strip().lower()
    if code in ("", "auto"):
        return ""
    if not (code.isascii() and code.isalpha() and len(code) in (2, 3)):
        raise PydanticCustomError(
            Reason.LANGUAGE_UNSUPPORTED.value,
            "Language should be a code of two or three letters (en, de, yue), or none to detect it",
        )
    return code


Text = Annotated[str, StringConstraints(max_length=4000), AfterValidator(_without_nul)]
Name = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True), AfterValidator(_without_nul)]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_without_nul)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", to_lower=True)]
Speakers = Annotated[int, Field(ge=1, le=100)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class JobOptions(_Body):
    """How to transcribe. Null or left out means the default."""

    model: Name | None = Field(default=None, description="A model's name; none: the worker's default.")
    language: Annotated[str, AfterValidator(_language)] | None = Field(
        default=None, description="ISO 639-1 code; none: detect it."
    )
    use_remote_worker: bool | None = Field(
        default=None, description="Asks for a remote worker where the mode leaves the choice."
    )
    diarization_enabled: bool | None = Field(default=None, description="Whether words get speakers.")
    diarization_max_duration_seconds: Annotated[float, Field(gt=0, le=LONGEST_DIARIZATION_SECONDS)] | None = Field(
        default=None,
        description="Longest stretch to diarize at once, in seconds (120 to 3600; 1800 by default); speakers keep their names throughout.",
    )
    diarization_fast_switching: bool | None = Field(default=None, description="Shorter chunks with more overlap.")
    speaker_per_channel: bool | None = Field(
        default=None,
        description="Where each of two channels holds one speaker: tell them apart by channel, whatever maxSpeakers says; all "
        "other recordings by voice, and where minSpeakers is more than two.",
    )
    min_speakers: Speakers | None = Field(default=None, description="At least so many speakers.")
    max_speakers: Speakers | None = Field(default=None, description="At most so many speakers.")
    word_timestamps: bool | None = Field(default=None, description="Whether segments carry words with times.")
    initial_prompt: Text | None = Field(default=None, description="Text the model is told to have heard before.")
    hotwords: Text | None = Field(default=None, description="Words to expect.")
    vad: bool | None = Field(default=None, description="Voice activity detection; default true.")

    @model_validator(mode="after")
    def _speakers(self) -> Self:
        if self.min_speakers is not None and self.max_speakers is not None and self.min_speakers > self.max_speakers:
            raise PydanticCustomError("speakers", "minSpeakers should be at most maxSpeakers")
        return self


class CreateJobs(_Body):
    """One job for each upload."""

    upload_ids: Annotated[list[Identifier], Field(min_length=1, max_length=1000)] = Field(
        description="Ids that POST /api/uploads gave; one may be submitted many times."
    )
    options: JobOptions | None = Field(default=None, description="For all of them.")
    request_id: Name | None = Field(
        default=None, description="The same again, in the same session, returns the same jobs."
    )


def _whole(text: object) -> object:
    """Numbers of a query are text; only plain digits are one (not "1_0", " 5" or "5.0")."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20 else text


class _Query(BaseModel):
    """Unknown parameters of a query are passed over: caches and proxies add their own."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, alias_generator=to_camel)


class ListJobs(_Query):
    status: Status | None = Field(default=None, description="Only jobs that have come to this.")
    page_size: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=1000)] = Field(
        default=50, description="At most so many."
    )
    page_token: Name = Field(default="", description="nextPageToken of the page before.")


class ListUploads(_Query):
    sha256: Digest = Field(description="SHA-256 of the whole content, in hexadecimal.")


class WatchJob(_Query):
    last_event_id: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=LAST_EVENT)] = Field(
        default=0, description="Only events after this one; the header Last-Event-ID comes first."
    )


class GetTranscript(_Query):
    format: Format = Field(default="json", description="How to write it.")


async def read_body(request: web.Request, model: type[Model]) -> Model:
    """The request's JSON. Raises ServiceError that names the place of what is wrong."""
    return _validated(model, await request.read())


def read_query(request: web.Request, model: type[Model], **more: str) -> Model:
    """The request's query (and ``more``, which comes first). Raises ServiceError that names the parameter."""
    return _validated(model, {**request.query, **more})


def _validated(model: type[Model], given: bytes | dict[str, str]) -> Model:
    try:
        return model.model_validate_json(given) if isinstance(given, bytes) else model.model_validate(given)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False, include_input=False), model) from None


def _invalid(errors: list[ErrorDetails], model: type[BaseModel]) -> ServiceError:
    kinds = {details["type"] for details in errors}
    reason = Reason.LANGUAGE_UNSUPPORTED if kinds == {Reason.LANGUAGE_UNSUPPORTED.value} else Reason.INVALID_REQUEST
    return ServiceError(reason, "; ".join(_sentence(details, model) for details in errors[:5]) + ".")


def _sentence(details: ErrorDetails, model: type[BaseModel]) -> str:
    place = ".".join(str(step) for step in details["loc"])
    if details["type"] == "json_invalid":
        return f"The body is not valid JSON: {details['ctx']['error']}"
    if details["type"] == "missing":
        return f"{place} is missing"
    if details["type"] == "extra_forbidden":
        known = JobOptions if place.startswith("options.") else model
        return f"{place} is not known; known are {', '.join(to_camel(name) for name in known.model_fields)}"
    message = details["msg"]
    return f"{place or 'The body'}: {message[0].lower()}{message[1:]}"
