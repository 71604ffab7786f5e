"""Learning in numpy: the networks that scikit-learn lacks, the way back by hand, and the text one of them read."""
