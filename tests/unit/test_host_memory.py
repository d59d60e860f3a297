"""What memory there is: the machine's, or what a container's limit leaves."""

from __future__ import annotations

from pathlib import Path

import psutil

from services.worker.engine.host_memory import available_bytes, total_bytes

MIB = 1024**2


def cgroup(folder: Path, most: str, used: int) -> Path:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\nfile 2\ninactive_file {3 * MIB}\nactive_file 4\n")
    return folder


def test_a_container_has_what_its_limit_leaves_and_what_files_take(tmp_path: Path) -> None:
    limited = cgroup(tmp_path, str(50 * MIB), 20 * MIB)
    assert total_bytes(limited) == 50 * MIB
    assert available_bytes(limited) == 33 * MIB
    assert available_bytes(cgroup(tmp_path, str(50 * MIB), 60 * MIB)) == 0


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    machine = psutil.virtual_memory()
    for folder in (tmp_path / "none", cgroup(tmp_path, "max", 20 * MIB)):
        assert total_bytes(folder) == machine.total
        assert 0.5 * machine.available < available_bytes(folder) <= machine.total


def test_a_limit_over_what_the_machine_has_says_nothing(tmp_path: Path) -> None:
    assert total_bytes(cgroup(tmp_path, str(2**60), 0)) == psutil.virtual_memory().total
