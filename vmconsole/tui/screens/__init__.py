"""The places and what opens from them."""
