"""The pipeline engine: stages with content keys, committed in one rename."""
