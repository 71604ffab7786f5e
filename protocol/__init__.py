"""What may be said and what follows from it: pure functions over bytes and whole numbers."""
