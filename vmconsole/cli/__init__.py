"""The headless commands, one file per verb."""
