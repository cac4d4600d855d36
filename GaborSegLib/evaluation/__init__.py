"""How well a network does on labelled scans (Section 3.1, Table 1)."""
