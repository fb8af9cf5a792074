"""Settings of the axon."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from stage1.settings import Section

MIB = 1024 * 1024


class RequestSettings(Section):
    """How requests are answered.

    Attributes:
        max_body_bytes: a longer body is refused with 413.
        max_buffered_bytes: bodies of all requests in flight together.
        max_in_flight: most requests that are read or answered at one time; where there is no place, a caller
            with more than its share by stake gives one back, of a request whose body is still coming.
        deadline_s: an answer is due so long after its request arrived, and earlier if the caller waits less.
        margin_s: an answer is due so long before the caller stops waiting, but never before half of that time.
    """

    max_body_bytes: int = Field(default=16 * MIB, ge=1024)
    max_buffered_bytes: int = Field(default=512 * MIB, ge=1024)
    max_in_flight: int = Field(default=256, ge=1)
    deadline_s: float = Field(default=7.0, gt=0)
    margin_s: float = Field(default=1.0, ge=0)


class WireSettings(Section):
    """In which protocols validators ask, and which requests count as fresh.

    Attributes:
        module: Python module with the function `routes` of the subnet's wire.
        past_grace_s: a nonce of a dendrite may be this old plus the request's own timeout.
        timeout_cap_s: the most the request's timeout may add; the timeout is not signed, so a caller could claim any.
        future_s: how far a dendrite's clock may run ahead of ours.
        btauth_path: where `btauth/1`, the signed requests of bittensor 11, are taken; empty for nowhere.
        btauth_body: what their body is: `json` with the image as base64 in the field `image`, or the `image` itself.
        btauth_waits_s: how long their callers wait; the protocol does not say.
        max_age_s: a nonce of theirs may be this old.
        max_skew_s: how far the clock of such a caller may run ahead of ours.
        allow_unbound_receiver: take such a request also if it names no receiver; whoever sees it can then send it to
            other miners, or one that was sent to another miner to this one.
        nonce_retention_s: how long nonces are remembered; no window may be longer.
        nonces_per_hotkey: how many nonces are remembered for one hotkey.
    """

    module: str = Field(default="miner.axon.wires.subnet72", min_length=1)
    past_grace_s: float = Field(default=4.0, ge=0)
    timeout_cap_s: float = Field(default=60.0, gt=0)
    future_s: float = Field(default=15.0, ge=0)
    btauth_path: str = Field(default="/ImageSynapse", pattern=r"^(/[!\"$&->@-~]*)?$")
    btauth_body: Literal["json", "image"] = "json"
    btauth_waits_s: float = Field(default=9.0, gt=0)
    max_age_s: float = Field(default=10.0, gt=0)
    max_skew_s: float = Field(default=2.0, ge=0)
    allow_unbound_receiver: bool = False
    nonce_retention_s: float = Field(default=120.0, gt=0)
    nonces_per_hotkey: int = Field(default=4096, ge=1)

    @model_validator(mode="after")
    def _nonces_outlive_their_windows(self) -> Self:
        windows = {
            "past_grace_s + timeout_cap_s + future_s": self.past_grace_s + self.timeout_cap_s + self.future_s,
            "max_age_s + max_skew_s": self.max_age_s + self.max_skew_s,
        }
        for names, window_s in windows.items():
            if window_s > self.nonce_retention_s:
                raise ValueError(
                    f"{names} is {window_s:g} s, longer than nonces are remembered; set nonce_retention_s, which is "
                    f"{self.nonce_retention_s:g}, to {window_s:g} or more"
                )
        return self


class AxonSettings(Section):
    """Where the axon listens.

    Attributes:
        host: address of the interface; `0.0.0.0` for all of IPv4, `::` for all of IPv6 and IPv4.
        port: TCP port; 0 takes a free one.
        first_request_s: how long a new connection may take to send its first request header; `keep_alive_s` if a
            permitted caller has asked from its address.
        keep_alive_s: how long a connection may then be without a complete request header. A dendrite reuses connections
            for 15 s and does not repeat a request that met a closing one.
        max_connections: of all; fewer if the system allows the process fewer files. Where there is no place for one
            more, the one closes that waits longest without a request; if none waits, the new one is answered with 503.
        max_connections_per_address: of one address; more if a proxy stands before the axon.
        reserved_connections: kept for addresses from which a permitted caller has asked; at most half of all.
        max_header_bytes: a longer request header is answered with 400.
    """

    host: str = "0.0.0.0"  # noqa: S104  the axon is a public service
    port: int = Field(default=8091, ge=0, le=65535)
    first_request_s: float = Field(default=5.0, gt=0)
    keep_alive_s: int = Field(default=30, ge=1)
    max_connections: int = Field(default=1024, ge=1)
    max_connections_per_address: int = Field(default=128, ge=1)
    reserved_connections: int = Field(default=256, ge=0)
    max_header_bytes: int = Field(default=16_384, ge=4096)


def _an_ss58_address(text: str) -> str:
    # Its module is native and takes a while to load; few miners have such hotkeys.
    from bittensor_wallet import Keypair  # noqa: PLC0415

    try:
        Keypair(ss58_address=text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no ss58 address of a hotkey: {error}") from None
    return text


class AccessSettings(Section):
    """Who may ask.

    Attributes:
        require_validator_permit: refuse registered hotkeys without a validator permit.
        min_stake: refuse registered hotkeys with less total stake than this, in TAO.
        extra_hotkeys: ss58 addresses that may always ask, registered or not.
        requests_per_s: how fast one hotkey may ask over time.
        burst: how many requests one hotkey may send at once.
    """

    require_validator_permit: bool = True
    min_stake: float = Field(default=0.0, ge=0)
    extra_hotkeys: frozenset[Annotated[str, AfterValidator(_an_ss58_address)]] = frozenset()
    requests_per_s: float = Field(default=20.0, gt=0)
    burst: int = Field(default=256, ge=1)
