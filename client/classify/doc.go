// Package classify looks through a database for columns that hold personal data or secrets, by their names and by a sample of their
// values, and proposes classes for them as a policy's classes.yaml. It refuses to decide: a person reviews what it writes; and it
// keeps no value, only how many were found.
package classify
