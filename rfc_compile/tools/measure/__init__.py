"""A model sampled with and without caching, and how the images differ."""
