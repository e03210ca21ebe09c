"""Room `controlplane`."""
