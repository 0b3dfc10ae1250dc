"""Give each weight of a GGUF file the type that keeps the file within bounds of size, loss and speed."""
