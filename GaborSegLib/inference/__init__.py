"""A scan in, its structures out, with their volumes."""
