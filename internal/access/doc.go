// Package access holds the nouns that every part of Sallyport speaks: who asks, what they ask for, what was decided.
// It refuses nothing by itself except by its zero values, which all deny.
package access
