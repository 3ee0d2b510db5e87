// Package console plays what a person does with dapr-bolt's console, in a real browser without a window.
package console
