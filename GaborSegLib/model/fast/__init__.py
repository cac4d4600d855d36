"""Faster ways to compute what the network is made of."""
