"""A year of nights by a simulated clock: verdicts, certificates, disk and seconds, with what goes wrong in a year."""
