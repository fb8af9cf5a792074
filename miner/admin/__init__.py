"""The administrator's endpoint."""
