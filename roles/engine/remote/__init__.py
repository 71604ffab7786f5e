"""Models that an existing server runs: any that speaks Open Inference Protocol v2 over HTTP."""
