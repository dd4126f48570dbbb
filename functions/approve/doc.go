// Package approve is the browser's side of the broker: sign-in, the reviewer's page, the live page, and the JSON that the CLI reads.
// It refuses verdicts without a login made for that very approval, and changes nothing when a page is only looked at.
package approve
