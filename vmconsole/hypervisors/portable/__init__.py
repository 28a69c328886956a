"""A guest's hardware in neutral words, so that a guest of one kind of host can live on another."""
