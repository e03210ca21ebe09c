"""Mycelial: declarative, git-driven data movement for the edge and the cloud.

Nothing is imported here, so that every process pays only for the rooms it uses.
ARCHITECTURE.md is the map of the rooms.
"""

__version__ = "0.1.0"
