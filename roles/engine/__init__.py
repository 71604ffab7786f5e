"""Runs models: in worker processes for nodes (`pool`), in place for the simulator (`inline`)."""
