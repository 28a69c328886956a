"""Talking to a program on a host that holds a guest's export and undoes it when we vanish."""
