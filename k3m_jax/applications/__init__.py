"""Programs built on exported models: neighbours and duplicates, a gallery, an HTTP service."""
