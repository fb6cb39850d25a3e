"""From recorded runs to a page; reads records alone and loads neither torch nor TRL."""
