"""What a teacher writes for its student to learn from: answers to instructions, and text that goes on from the corpus's."""
