"""What the command line and the console share: the services they are handed, and how they word what happens."""
