"""Results of several machines and groups: merged, packed into one file, set on one board."""
