"""Running programs and opening sockets, here or over SSH."""
