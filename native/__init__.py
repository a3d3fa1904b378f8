"""Source of the native kernel and the program that builds it."""
