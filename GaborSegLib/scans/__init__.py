"""Scans in memory and on disk, and the grid that the network sees them on (Section 3.1)."""
