"""The faults that a hostile network, a bad chain or an operator's mistake showed, reproduced from outside."""
