"""What specimens are made of. A seed in, a Structure out; one file a family."""
