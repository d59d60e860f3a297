"""How much memory the machine has and can still give; in a container or a service with a limit (cgroup v2), what that leaves."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def own_cgroup(groups: Path = CGROUPS, told: Path = Path("/proc/self/cgroup")) -> Path:
    """Where the limits of this process are; a container sees its own as the root."""
    try:
        lines = told.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return groups / next((line.removeprefix("0::").lstrip("/") for line in lines if line.startswith("0::")), "")


def available_bytes(cgroup: Path | None = None) -> int:
    """What a process can have without swapping."""
    cgroup = cgroup or own_cgroup()
    free = int(psutil.virtual_memory().available)
    limit = _number(cgroup / "memory.max")
    if limit is None:
        return free
    return min(free, max(0, limit - (_number(cgroup / "memory.current") or 0) + _given_back(cgroup)))


def total_bytes(cgroup: Path | None = None) -> int:
    total, limit = int(psutil.virtual_memory().total), _number((cgroup or own_cgroup()) / "memory.max")
    return total if limit is None else min(total, limit)


def _given_back(cgroup: Path) -> int:
    """Files' pages count as used, and go where memory is wanted."""
    try:
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))


def _number(file: Path) -> int | None:
    """None where there is none: no such file, or no limit ("max")."""
    try:
        said = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(said) if said.isdecimal() else None
