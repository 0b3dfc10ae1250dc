"""A student of the right shape: what of the teacher stays, to a size that is asked for, and which shape is best."""
