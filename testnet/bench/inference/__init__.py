"""What a network adds to running a model, and how it behaves when it is asked for more than it can do."""
