// Package gate is where the agent asks: it turns commands into questions to functions/decide and answers into permits.
// It refuses whenever there is no answer, a late one, one that it does not understand, or one for something else.
package gate
