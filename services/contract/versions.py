"""Which versions of the two sides of a contract understand each other: those of one major version.

Within a major version contracts only grow: an older side passes over what it does not know.
"""

from __future__ import annotations

from services.contract.errors import Reason, ServiceError


def require_compatible(us: str, our_version: str, them: str, their_version: str) -> None:
    """``us`` and ``them`` say who is who ("The controller"). Raises VERSION_INCOMPATIBLE; none given is from before
    versions were told, and taken as it is."""
    if their_version and _major(their_version) != _major(our_version):
        raise ServiceError(
            Reason.VERSION_INCOMPATIBLE,
            f"{them} is of version {their_version}, {us[:1].lower()}{us[1:]} of version {our_version}: their first numbers"
            " must be equal. Update the older one.",
        )


def _major(version: str) -> str:
    return version.partition(".")[0]
