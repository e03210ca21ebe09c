"""Room `daemon`."""
