// Package child says how a program is started that must not outlive its starter, also when that is killed. It refuses to leave one running
// where the system can end it, and ends nothing itself: whoever started a program stops it in order.
package child
