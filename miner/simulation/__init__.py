"""A validator on this machine: asks a miner as validators do, and works out what they would pay for its answers."""
