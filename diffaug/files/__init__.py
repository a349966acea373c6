"""Everything that touches the disk: storage, temporary names, locks, paths."""
