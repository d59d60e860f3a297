"""`make docs`: writes the README's tables of settings and errors from the code; `--check` only compares.

A table stands between `<!-- NAME -->` and `<!-- end of NAME -->`; what is between them is made here.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gateway.errors import HTTP_STATUS  # noqa: E402 - found once the root is on the path
from gateway.settings import GatewaySettings  # noqa: E402
from services.contract.errors import ERRORS, Reason  # noqa: E402
from services.controller.settings import ControllerSettings  # noqa: E402
from services.runtime.settings import ProcessSettings, setting_rows  # noqa: E402
from services.worker.settings import WorkerSettings  # noqa: E402

README = ROOT / "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="docs/generate.py", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 when the README is not up to date"
    )
    check: bool = parser.parse_args(arguments).check
    before = README.read_text(encoding="utf-8")
    after = before
    for name, table in TABLES.items():
        after = replaced(after, name, table())
    if check and after != before:
        print("README.md is not what the code makes; run: make docs", file=sys.stderr)
        return 1
    if not check:
        README.write_text(after, encoding="utf-8")
    return 0


def replaced(text: str, name: str, table: str) -> str:
    """Raises ValueError where the README has no place for the table."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    place = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    made, count = place.subn(lambda _: f"{begin}\n{table}\n{end}", text)
    if count != 1:
        raise ValueError(f"README.md has {count} places for {name!r}")
    return made


def settings_table(kind: type[ProcessSettings]) -> str:
    rows = ((f"`{name}`", _default(default), description) for name, default, description in setting_rows(kind))
    return _table(("variable", "default", "what it is"), rows)


def error_table() -> str:
    rows = (
        (
            f"`{reason.value}`",
            f"{entry.meaning}.",
            f"{entry.action}.",
            "yes" if entry.retryable else "no",
            _status(reason),
        )
        for reason, entry in ERRORS.items()
    )
    return _table(("code", "means", "what to do", "may pass by itself", "HTTP"), rows)


def _status(reason: Reason) -> str:
    return str(HTTP_STATUS[reason])


def _default(default: str) -> str:
    return default if default in ("none", "required") else f"`{default}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "settings of the worker": lambda: settings_table(WorkerSettings),
    "settings of the controller": lambda: settings_table(ControllerSettings),
    "settings of the gateway": lambda: settings_table(GatewaySettings),
    "errors": error_table,
}


if __name__ == "__main__":
    sys.exit(main())
