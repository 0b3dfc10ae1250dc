"""How a stage runs in a process of its own, or in several, and how they speak, end and leave nothing behind."""
