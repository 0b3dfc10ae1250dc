"""Attention that computes less than all pairs: windows and other patterns as masks or blocks, and documents one by one."""
