"""Settles a store in a process of its own, says so, and waits until it is killed or told to end.

settlement_child.py STORE OWNER SILENCE_S
"""

from __future__ import annotations

import sys
from pathlib import Path

from engines.machine.clock import utc_now
from offline.publish.settlement import settlement

store, owner, silence_s = sys.argv[1:]
with settlement(Path(store), Path(owner), now=utc_now, silence_s=float(silence_s)) as held:
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.readline()
    held.check()
