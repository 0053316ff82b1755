"""Views decide what an id means."""
