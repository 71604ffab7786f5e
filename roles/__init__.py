"""What nodes do: one decision-maker per role, and the shell that runs them."""
