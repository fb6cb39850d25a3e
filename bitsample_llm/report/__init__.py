<<<<<<< HEAD
"""From records to a page. Reads records only: neither torch nor transformers nor TRL."""
=======
"""From recorded runs to a page; reads records alone and loads neither torch nor TRL."""
>>>>>>> studies
