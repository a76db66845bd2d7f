"""The scene as one page for a browser: depth layers, baked from the fields."""
