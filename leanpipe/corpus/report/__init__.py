"""What a person is told of a corpus: data card, tables, pictures, the dry run's page, and the way to find a document."""
