"""File descriptors: how many this process may have, and whether an error says that there are no more."""

from __future__ import annotations

import contextlib
import errno
import resource

# More than any miner needs; some systems set no limit at all, and name a number that nobody can count to.
ENOUGH = 65_536
NO_MORE = frozenset({errno.EMFILE, errno.ENFILE})


def raise_descriptor_limit() -> int:
    """Raise this process's limit as far as the system lets it without a privilege.

    Returns:
        How many descriptors it may have.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # A sandbox may forbid it; what there is has to do then.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptor_limit()


def descriptor_limit() -> int:
    """How many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def lacks_descriptors(error: BaseException | None) -> bool:
    """Whether there were no more descriptors is what caused an error, or what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in NO_MORE:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
