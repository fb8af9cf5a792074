"""`cascade stage2`: the servers behind the bridge."""
