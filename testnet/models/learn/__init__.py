"""Learning in numpy alone: the networks that scikit-learn has not, the way back written out."""
