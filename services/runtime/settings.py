"""Settings from the environment, with `--help` that lists them and errors of one line each.

A process defines one frozen pydantic-settings class; every field has a default or is required, and a description
that says its unit and reason. Nothing else in a process reads the environment.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined
from pydantic_settings import BaseSettings, SettingsConfigDict

EXIT_WRONG_SETTING = 2

_ALLOWED = {
    "bool_parsing": "must be true or false",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
}

Settings = TypeVar("Settings", bound="ProcessSettings")


class ProcessSettings(BaseSettings):
    """Field names are the variables' names in lower case."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=False, validate_default=False)

    @field_validator("*", mode="before")
    @classmethod
    def _path(cls, value: object, info: ValidationInfo) -> object:
        """An empty path would be the folder that the process happens to be started in."""
        if value == "" and "Path" in str(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("an empty path is none; unset it, or give it a value")
        return value


def load_settings(
    kind: type[Settings], program: str, description: str, arguments: Sequence[str] | None = None
) -> Settings:
    """The process's settings; ends the process with one line for each wrong one, or after `--help`."""
    settings_parser(kind, program, description).parse_args(arguments)
    return read_settings(kind)


def settings_parser(kind: type[ProcessSettings], program: str, description: str) -> argparse.ArgumentParser:
    """A parser of the command line whose `--help` lists the settings; a process may add arguments of its own."""
    return argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=settings_help(kind),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def read_settings(kind: type[Settings], **given: Any) -> Settings:
    """As `load_settings`, without a command line; ``given`` goes before the environment."""
    try:
        return kind(**given)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            print(setting_error(kind, details), file=sys.stderr)  # noqa: T201 - before there is a log
        raise SystemExit(EXIT_WRONG_SETTING) from None


def setting_error(kind: type[ProcessSettings], details: ErrorDetails) -> str:
    """One line: the variable, its value, what is allowed."""
    if not details["loc"]:  # of several settings together; the message names them
        return str(details["ctx"]["error"]) if "ctx" in details else details["msg"]
    field = str(details["loc"][0])
    name = field.upper()
    if details["type"] == "missing":
        return f"{name} is not set: {kind.model_fields[field].description}"
    value = details["input"]
    bare = re.sub(r"(?<=//)[^/@,]*@", "***@", str(value))  # an address may hold a password
    shown = "(secret)" if value and is_secret(kind.model_fields[field]) else repr(bare)
    return f"{name}={shown} is not allowed: {_allowed(details)}"


def _allowed(details: ErrorDetails) -> str:
    if details["type"] in _ALLOWED:
        return _ALLOWED[details["type"]]
    said = str(details["ctx"]["error"]) if details["type"] == "value_error" else details["msg"]
    said = said.replace("Input should be", "must be")
    return f"{said[0].lower()}{said[1:]}"


def header_token(value: SecretStr) -> SecretStr:
    """A token that can travel in a header. Raises ValueError that says what is wrong with it."""
    token = value.get_secret_value()
    if not token.strip():
        raise ValueError("an empty token protects nothing; unset it, or give it a value")
    if not token.isascii() or not token.isprintable() or token != token.strip():
        raise ValueError("must be printable ASCII without spaces around it, since it travels in a header")
    return value


def is_secret(field: FieldInfo) -> bool:
    return "SecretStr" in str(field.annotation)


def setting_rows(kind: type[ProcessSettings]) -> list[tuple[str, str, str]]:
    """(variable, default, description) of every setting, for help and for the README's tables."""
    return [(name.upper(), _default(field), field.description or "") for name, field in kind.model_fields.items()]


def settings_help(kind: type[ProcessSettings]) -> str:
    lines = ["settings, from the environment:"]
    for name, default, description in setting_rows(kind):
        lines += [f"  {name} ({default})", f"      {description}"]
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in (None, "", ()):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
