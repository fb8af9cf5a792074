"""The version of a model that a bundle is on a server: one bundle, one version, whoever exports or asks.

Triton and OpenVINO Model Server name the versions of a model by directories, and take only positive numbers that fit
into 64 bits with a sign. So the version is a number that the id of the bundle alone decides.
"""

from __future__ import annotations

# 60 bits of the 64 that an id has: two bundles of one model would have to agree in all of them.
DIGITS = 15
MODEL = "stage1"


def version_of(bundle: str) -> str:
    """The version of a bundle, a positive decimal number.

    Args:
        bundle: its whole id, hexadecimal.

    Example:
        >>> version_of("00000000000000ff")
        '16'
    """
    return str(int(bundle[:DIGITS], 16) + 1)
