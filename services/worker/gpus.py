"""Which GPUs the worker has, as their driver's own tool tells it; no model library is asked."""

from __future__ import annotations

import asyncio

import structlog

from services.worker.capacity import Gpu

log = structlog.get_logger()

DRIVER_SECONDS = 20.0
"""How long the driver may take to answer; waking a GPU up takes seconds."""

_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits")


async def find_gpus(device: str, visible: str | None) -> tuple[Gpu, ...]:
    """Those that the engine may use, in CUDA's order by PCI bus, which is also the tool's.

    ``device`` is WORKER_DEVICE, ``visible`` CUDA_VISIBLE_DEVICES (None: unset). None of them where there is no driver.
    """
    if device == "cpu":
        return ()
    return chosen(await _asked(), visible)


def chosen(answer: str, visible: str | None) -> tuple[Gpu, ...]:
    """What the tool's answer lists, and of that what CUDA lets a process see: an entry that CUDA does not know ends its
    list."""
    listed: dict[str, Gpu] = {}
    for line in answer.splitlines():
        index, uuid, memory, name = ([*line.split(", ", 3), "", "", ""])[:4]
        if memory.isdecimal():
            listed[index] = Gpu(name, int(memory), uuid)
    if visible is None:
        return tuple(listed.values())
    seen: list[Gpu] = []
    for entry in (entry.strip() for entry in visible.split(",")):
        found = listed.get(entry) or _by_uuid(listed, entry)
        if found is None or found in seen:
            break
        seen.append(found)
    return tuple(seen)


def _by_uuid(listed: dict[str, Gpu], beginning: str) -> Gpu | None:
    """CUDA takes the beginning of a UUID where only one GPU's begins so."""
    found = [gpu for gpu in listed.values() if beginning.startswith("GPU-") and gpu.uuid.startswith(beginning)]
    return found[0] if len(found) == 1 else None


async def _asked() -> str:
    try:
        query = await asyncio.create_subprocess_exec(
            *_QUERY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(DRIVER_SECONDS):
            answer, _ = await query.communicate()
    except TimeoutError:
        query.kill()
        await query.wait()
        log.warning("nvidia_smi_silent", seconds=DRIVER_SECONDS)
        return ""
    return answer.decode()
