"""`cascade doctor`: what a miner needs, checked one by one, each with what to do."""
