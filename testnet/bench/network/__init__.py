"""Does a network hold up when it is used? All roles as processes, load past the knee, cheats, kills, a partition."""
