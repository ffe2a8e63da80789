"""Two faces over one map core: the modelled virtual memory of the BSDs."""
