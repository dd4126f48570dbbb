// Package inspect looks at a deployment from outside, with an operator's AWS credentials: what CloudFormation says of its stack, and whether
// everything in it is as it must be. It changes nothing, and refuses to call anything right that it could not look at.
package inspect
