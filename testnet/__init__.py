"""Whole networks: started, loaded, broken, simulated, measured and shown."""
