"""Models by name: the catalogue, the caches that keep them, and the sources that they are downloaded from.

Other rooms import `Hub`, `known_config` and the catalogue; the compiler's wheel comes through `package_index`.
"""
