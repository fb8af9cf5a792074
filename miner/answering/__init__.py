"""From a request to an answer in time."""
