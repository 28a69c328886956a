"""What is inside a restore point, as folders."""
