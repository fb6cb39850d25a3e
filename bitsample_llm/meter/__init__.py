"""The callback that takes down what a TRL trainer's samples tell, and what they cost."""
