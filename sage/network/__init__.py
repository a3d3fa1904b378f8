"""Events -> class probabilities: the event graph and the network on it, as dense torch and as a native kernel."""
