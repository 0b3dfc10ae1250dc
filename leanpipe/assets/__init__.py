"""Models and text of others: fetched by name when they are asked for, checked, cached, never part of the repository."""
