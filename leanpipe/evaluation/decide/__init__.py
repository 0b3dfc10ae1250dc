"""What may be concluded from an evaluation, and how often one may be wrong."""
