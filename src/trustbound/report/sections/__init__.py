"""The parts of the page, each a function from the record to sections in the order of the page."""
