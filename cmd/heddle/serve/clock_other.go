//go:build !linux

package serve

// kernelClock is silent where there is no common way to ask.
func kernelClock() string { return "" }
