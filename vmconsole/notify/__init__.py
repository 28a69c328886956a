"""How alerts, digests and figures leave the house: channels, watchdogs, metrics."""
