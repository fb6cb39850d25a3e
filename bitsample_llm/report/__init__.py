"""From records to a page. Reads records only: neither torch nor transformers nor TRL."""
