"""The listening socket, and the applications that answer on it one after the other."""
