"""What people read of a run: which stage lost or gained what, and one page with all of it."""
