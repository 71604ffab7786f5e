"""Does the network pay those who keep it, and where does it stop to? `rolemesh bench economy`."""
