"""A model folder behind the OpenAI API."""
