"""Data frames become figures."""
