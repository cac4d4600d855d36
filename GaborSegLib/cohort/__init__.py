"""A study's scans: found, segmented by many processes, and brought together in tables and a report."""
