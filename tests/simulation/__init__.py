"""The decisions of controllers and workers on virtual time, with every fault that a seed can think of."""
