"""The work of an audit as plain data, and what carries it out: no store, no console, nothing kept between units."""
