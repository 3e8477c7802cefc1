"""Named protocols: what a table must hold to bear their name."""
