"""rfc beside no cache, TaylorSeer and the caches of other libraries."""
