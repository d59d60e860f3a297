"""What memory there is: the machine's, or what a container's limit leaves."""

from __future__ import annotations

from pathlib import Path

import psutil

from services.worker.engine.host_memory import available_bytes, own_cgroup, total_bytes

MIB = 1024**2


def cgroup(folder: Path, most: str, used: int) -> Path:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\nfile 2\ninactive_file {3 * MIB}\nactive_file {MIB}\n")
    return folder


def test_a_container_has_what_its_limit_leaves_and_what_files_take(tmp_path: Path) -> None:
    limited = cgroup(tmp_path, str(50 * MIB), 20 * MIB)
    assert total_bytes(limited) == 50 * MIB
    assert available_bytes(limited) == 34 * MIB
    assert available_bytes(cgroup(tmp_path, str(50 * MIB), 60 * MIB)) == 0


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    machine = psutil.virtual_memory()
    for folder in (tmp_path / "none", cgroup(tmp_path, "max", 20 * MIB)):
        assert total_bytes(folder) == machine.total
        assert 0.5 * machine.available < available_bytes(folder) <= machine.total


def test_the_limit_is_that_of_the_processes_own_group(tmp_path: Path) -> None:
    told = tmp_path / "told"
    for said, expected in (("0::/\n", ""), ("1:x:/y\n0::/system.slice/one.service\n", "system.slice/one.service")):
        told.write_text(said)
        assert own_cgroup(tmp_path, told) == tmp_path / expected
    assert own_cgroup(tmp_path, tmp_path / "none") == tmp_path


def test_a_limit_over_what_the_machine_has_says_nothing(tmp_path: Path) -> None:
    assert total_bytes(cgroup(tmp_path, str(2**60), 0)) == psutil.virtual_memory().total
