"""Models in other programs' formats: ONNX for onnxruntime, and Ollama's description of a GGUF file."""
