"""`cascade config` and `cascade init`: the settings of a miner, shown, described and written."""
