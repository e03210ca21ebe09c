"""Room `observability`."""
