"""Tables as shops export them: files to rows, and rows by a mapping to records."""
