"""Room `connectors`."""
