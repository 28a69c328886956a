"""One module for each file system: what a folder holds, what a file is, its bytes."""
