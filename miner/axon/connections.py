"""Who holds the connections of an axon, so that nobody can take all of them from the others.

An address may hold so many; addresses that have proved no permitted caller may together hold all but a reserve. Where
there is no place, the connection of such an address goes that has waited longest without a request; then one of whoever
holds most, if that is more than the newcomer does. Only if none waits the new one is refused. So whoever opens
connections and says nothing shuts out himself alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Protocol

# In the state of an ASGI scope: called once a permitted caller has proved that it asks over this connection.
CALLER_PROVED = "caller_proved"
# Likewise: takes what to call if the connection closes before the reply, or None once that is of no interest.
CALLER_LEFT = "caller_left"
# Addresses of a caller, and callers; validators have one or two addresses each.
ADDRESSES_OF_ONE, REMEMBERED = 8, 256
# An IPv6 network of one subscriber.
IPV6_PREFIX = 64


class Connection(Protocol):
    """One connection of a server."""

    @property
    def address(self) -> str:
        """Who holds it; see `network_of`."""
        ...

    def evict(self) -> None:
        """Close it at once."""
        ...


class ConnectionTable:
    """The open connections of one server.

    Args:
        most: of all.
        most_of_one: of one address.
        reserve: of `most`, for addresses that have proved a permitted caller.
    """

    def __init__(self, most: int, most_of_one: int, reserve: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._most_unproved = max(1, most - reserve)
        # Dictionaries for their order: who has waited longest comes first.
        self._open: dict[Connection, None] = {}
        self._of: dict[str, dict[Connection, None]] = {}
        self._idle: dict[Connection, None] = {}
        self._unproved: dict[Connection, None] = {}
        self._idle_unproved: dict[Connection, None] = {}
        # Addresses by the caller that was proved there, the latest last.
        self._proved_by: dict[str, dict[str, None]] = {}
        self._proved: set[str] = set()

    def __len__(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Give a new connection a place; another one may be closed for it. False if there is none."""
        address = connection.address
        own = self._of.get(address, {})
        if len(own) >= self._most_of_one and not self._evict_one(self._idle_of(own)):
            return False
        if address in self._proved:
            if len(self._open) >= self._most and not self._make_room(len(own)):
                return False
        elif self._no_place_for_strangers() and not self._evict_one(self._idle_unproved):
            return False
        self._open[connection] = None
        self._of.setdefault(address, {})[connection] = None
        if address not in self._proved:
            self._unproved[connection] = None
        self.wait(connection)
        return True

    def wait(self, connection: Connection) -> None:
        """A connection waits for its next request."""
        if connection in self._open:
            own = self._of[connection.address]
            del own[connection]
            own[connection] = None
            self._idle[connection] = None
            if connection in self._unproved:
                self._idle_unproved[connection] = None

    def work(self, connection: Connection) -> None:
        """A request of a connection is being answered."""
        self._idle.pop(connection, None)
        self._idle_unproved.pop(connection, None)

    def prove(self, connection: Connection, caller: str) -> None:
        """A permitted caller (its hotkey) proved that it asks over this connection."""
        address = connection.address
        if connection not in self._unproved and address in self._proved_by.get(caller, ()):
            return
        addresses = self._proved_by.pop(caller, {})
        addresses.pop(address, None)
        addresses[address] = None
        while len(addresses) > ADDRESSES_OF_ONE:
            del addresses[next(iter(addresses))]
        self._proved_by[caller] = addresses
        while len(self._proved_by) > REMEMBERED:
            del self._proved_by[next(iter(self._proved_by))]
        self._proved = {each for known in self._proved_by.values() for each in known}
        for own in self._of.get(address, {}):
            self._unproved.pop(own, None)
            self._idle_unproved.pop(own, None)

    def is_proved(self, address: str) -> bool:
        """Whether a permitted caller has asked from this address."""
        return address in self._proved

    def leave(self, connection: Connection) -> None:
        """A connection is closed."""
        if connection not in self._open:
            return
        for kind in (self._open, self._idle, self._unproved, self._idle_unproved):
            kind.pop(connection, None)
        own = self._of[connection.address]
        del own[connection]
        if not own:
            del self._of[connection.address]

    def _no_place_for_strangers(self) -> bool:
        return len(self._unproved) >= self._most_unproved or len(self._open) >= self._most

    def _idle_of(self, own: Iterable[Connection]) -> Iterator[Connection]:
        return (connection for connection in own if connection in self._idle)

    def _make_room(self, held: int) -> bool:
        """Close a connection for a proved address that holds so many."""
        if self._evict_one(self._idle_unproved):
            return True
        most = max(self._of.values(), key=len, default={})
        return len(most) > held + 1 and self._evict_one(self._idle_of(most))

    def _evict_one(self, candidates: Iterable[Connection]) -> bool:
        longest = next(iter(candidates), None)
        if longest is None:
            return False
        self.leave(longest)
        longest.evict()
        return True


@lru_cache(maxsize=REMEMBERED)
def network_of(address: str) -> str:
    """Who stands behind an address: an IPv4 address itself, an IPv6 address with its neighbours of one subscriber."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, IPV6_PREFIX), strict=False))
    return str(found)
