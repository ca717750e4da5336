"""Stock Faust."""
