"""Labelled scans: found on disk, looked through, prepared for the network, and changed at random (Section 2.4)."""
