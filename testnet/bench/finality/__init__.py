"""How fast validator processes make transfers final: the network, a client that pays, and the figures."""
