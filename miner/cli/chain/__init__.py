"""`cascade chain`: what the chain says of the subnet, in the form that others read."""
