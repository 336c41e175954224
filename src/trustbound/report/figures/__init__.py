"""The drawings of the report, each a function from records to SVG text."""
