"""The command line: one file a command group."""

from .main import main

__all__ = ["main"]
