// Package mask changes protected values on their way to a client, e-mail addresses, card numbers and anything else, to a shape that
// still tells what kind of value it was, and finds such values in text that nobody classified, as a whole or as it streams by.
// It refuses an unknown masker, a hash without a key, and to let any value through that a masker does not recognise: those become "****".
package mask
