"""`python -m testnet.models.train` makes the models that ship; needs the extra `train`."""
