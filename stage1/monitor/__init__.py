"""Whether a certificate still holds while it is used: sequential tests and adaptation on randomly audited exits."""
