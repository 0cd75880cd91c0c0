"""What is measured: dictionary, schema, groups, scale, and what moves what. Pure."""
