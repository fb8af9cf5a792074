"""Makes `btauth_vectors.json`: requests that bittensor 11 itself signed. Run with a Python that has bittensor 11.3.0.

.venv-bittensor11/bin/python tests/miner/axon/wires/make_btauth_vectors.py
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

NONCE_NS = 1_790_000_000_000_000_000
RECEIVER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
SENT: tuple[dict[str, Any], ...] = (
    {"method": "POST", "path": "/ImageSynapse", "body": '{"image": "aGVsbG8="}', "receiver_ss58": RECEIVER},
    {"method": "POST", "path": "/ImageSynapse?a=%2F&b", "body": "", "receiver_ss58": RECEIVER},
    {"method": "post", "path": "/", "body": "é\n", "receiver_ss58": None},
)


def main() -> None:
    """Write the vectors beside this file."""
    sdk: Any = importlib.import_module("bittensor")
    vectors = []
    for scheme in (1, 0):
        key = sdk.sp_core.Keypair.create_from_mnemonic(sdk.sp_core.Keypair.generate_mnemonic(), scheme)
        for request in SENT:
            body = request["body"].encode()
            headers = sdk.http_auth.sign(key, **{**request, "body": body}, nonce_ns=NONCE_NS)
            payload = sdk.http_auth.build_payload(
                scheme=headers.get("X-Bittensor-Crypto", "sr25519"),
                **{**request, "body": body},
                nonce_ns=NONCE_NS,
                sender_ss58=key.ss58_address,
            )
            vectors.append({**request, "headers": headers, "payload": payload.decode()})
    found = {"made_by": f"bittensor {sdk.__version__}", "nonce_ns": NONCE_NS, "hotkey": RECEIVER, "vectors": vectors}
    Path(__file__).with_name("btauth_vectors.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
