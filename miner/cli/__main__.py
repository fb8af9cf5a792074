"""`python -m miner.cli`."""

import sys

from miner.cli.main import app

sys.exit(app())
