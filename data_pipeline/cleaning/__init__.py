"""What happens to a document between reading and tokenizing: stages, each of which keeps, changes or drops it."""
