"""Training (Section 2.4): a run in a folder, in one process or several, that can be stopped at any moment."""
