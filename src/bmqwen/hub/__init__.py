"""Models by name: the catalogue, the cache, and where models are downloaded from."""
