"""knownas: by which identifiers every other system knows your user."""
