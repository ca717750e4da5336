"""What the sub-commands do that are too small for a module of the product: they print, the others return."""
