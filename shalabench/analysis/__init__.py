"""Statistics, tables, comparisons and the regression gate, from records."""
