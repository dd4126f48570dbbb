// Package story plays the product's main job on a real PostgreSQL with the real psql and the real binaries, step by step.
// It refuses to call a step done that it did not see happen, and leaves nothing running and nothing behind.
package story
