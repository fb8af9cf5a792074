"""The nightly pipeline: from labelled images to a certified bundle in the store."""
