"""`rolemesh bench gossip`: what is measured, the nodes it is measured on, and the processes they run in."""
