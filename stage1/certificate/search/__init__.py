"""The candidates for a rule, and which of them can be certified."""
