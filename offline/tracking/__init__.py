"""Where the curves of a night can be looked at beside those of other nights."""
