"""Does cheating pay? `rolemesh bench cheat`."""
