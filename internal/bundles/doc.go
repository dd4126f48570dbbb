// Package bundles publishes policy bundles and finds the active one: immutable blobs by content address, and one pointer.
// It refuses a bundle whose bytes are not those of its address, and answers nothing rather than an older one.
package bundles
