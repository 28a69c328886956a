"""What happens: backup and restore, the runner and its states."""
