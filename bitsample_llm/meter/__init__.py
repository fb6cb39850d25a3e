"""The callback that records what a TRL trainer's samples tell, and what they cost."""
