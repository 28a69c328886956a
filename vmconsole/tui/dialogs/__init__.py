"""What asks before something is done, and what says how it went."""
