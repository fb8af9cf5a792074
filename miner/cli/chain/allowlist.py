"""Addresses of those who may ask, as a firewall or a proxy reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

from miner.axon.access import AccessPolicy
from miner.axon.refusals import Forbidden
from miner.axon.settings import AccessSettings
from miner.chain.port import Neuron
from stage1.errors import SettingsError

Network = IPv4Network | IPv6Network


class ListFormat(StrEnum):
    """Who reads the list."""

    TEXT = "text"
    NGINX = "nginx"
    NFTABLES = "nftables"


@dataclass(frozen=True)
class Allowlist:
    """Where those who may ask come from, as far as they tell.

    Attributes:
        networks: in order, none twice.
        admitted: how many registered hotkeys may ask.
        silent: how many of them publish no address that can be reached.
    """

    networks: tuple[Network, ...]
    admitted: int
    silent: int


def allowlist(neurons: Mapping[str, Neuron], access: AccessSettings, more: Iterable[str] = ()) -> Allowlist:
    """The list, by the rules that a miner itself decides by.

    Args:
        neurons: registered hotkeys, and what is known of them.
        access: who may ask.
        more: further addresses or networks.

    Raises:
        SettingsError: one of `more` is neither.
    """
    policy = AccessPolicy(access, neurons)
    admitted = [neuron for hotkey, neuron in neurons.items() if _admits(policy, hotkey)]
    published = [ip_network(neuron.axon.ip) for neuron in admitted if neuron.axon is not None]
    reachable = [network for network in published if network.is_global]
    networks = {*reachable, *map(_network, more)}
    ordered = sorted(networks, key=lambda one: (one.version, int(one.network_address), one.prefixlen))
    return Allowlist(tuple(ordered), len(admitted), len(admitted) - len(reachable))


def written(found: Allowlist, form: ListFormat, block: int) -> str:
    """The file.

    Args:
        found: what is in it.
        form: who reads it.
        block: at which it was true.
    """
    head = (
        f"# {found.admitted} hotkeys may ask at block {block}; {found.silent} of them publish no address and may come "
        "from anywhere.\n"
    )
    if form is ListFormat.NGINX:
        return head + "".join(f"{network} 0;\n" for network in found.networks)
    if form is ListFormat.NFTABLES:
        return head + _nftables(found.networks)
    return head + "".join(f"{network}\n" for network in found.networks)


def _nftables(networks: tuple[Network, ...]) -> str:
    lines = []
    for version, name in ((4, "validators"), (6, "validators6")):
        elements = ", ".join(str(network) for network in networks if network.version == version)
        # Filled anew: one that is gone from the chain is gone from the set.
        lines.append(f"flush set inet cascade {name}\n")
        if elements:
            lines.append(f"add element inet cascade {name} {{ {elements} }}\n")
    return "".join(lines)


def _admits(policy: AccessPolicy, hotkey: str) -> bool:
    try:
        policy.check(hotkey)
    except Forbidden:
        return False
    return True


def _network(text: str) -> Network:
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise SettingsError(f"--also {text}: {error}; give an address or a network such as 203.0.113.0/24") from error
