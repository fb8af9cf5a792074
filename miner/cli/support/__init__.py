"""`cascade support`: what somebody who helps from afar needs to see, and nothing that they must not."""
