// Package measure takes the figures of the functions on AWS: what a decision needs of DynamoDB, S3 and KMS, how long the real binary takes
// under a runtime host, and how many agents at once fare.
// It refuses to guess: an operation that it does not know is an error, and a figure that was not taken is not there.
package measure
