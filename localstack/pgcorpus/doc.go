// Command pgcorpus attacks a PostgreSQL proxy with the rows of cases.yaml, each in many spellings, and prints what became of each: stopped,
// masked, leaked, ran, crashed or hung. The oracle is the server behind the proxy: its log, what it holds afterwards, and words in its masked columns that
// must not come back in any form.
// It refuses to count a spelling as a bypass that was stopped where the same does nothing at the bare server, and a row whose harmless control
// is refused.
package main
