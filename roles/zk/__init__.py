"""Zero-knowledge proofs of inference with ezkl, which is optional: `pip install 'rolemesh[zk]'`."""
