"""What both sides of a contract must agree on and proto cannot say: the error table, metadata keys, limits."""
