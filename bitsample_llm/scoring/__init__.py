"""How probable is an answer? Its spellings in tokens, where it ends, and the exact probability."""
