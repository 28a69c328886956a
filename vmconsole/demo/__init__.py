"""A small shop that ships in the package, served over real SSH and NBD."""
