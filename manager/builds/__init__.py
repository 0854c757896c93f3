"""The llama-servers of the cache folder: compiled here, or unpacked from a release archive."""
