package uplink

// RunChecking is Run with another interval between looks at the certificate.
var RunChecking = run
