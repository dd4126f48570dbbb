// Package sqltext reads the regions of a PostgreSQL text (strings, comments, identifiers, nesting) without parsing it.
// It refuses texts that are too large, too deep or not UTF-8 before any parser sees them, and lets no literal into normalised text.
package sqltext
