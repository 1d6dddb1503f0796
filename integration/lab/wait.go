//go:build linux

package lab

import (
	"testing"
	"time"
)

// pollEvery is how often Await looks: often enough to measure deadlines of seconds.
const pollEvery = 50 * time.Millisecond

// Await calls check until it returns nil and tells how long that took. It fails the test with the
// last error if that is not within the given time. Processes outside the test have no event that
// one could wait for, hence the polling.
func Await(t testing.TB, within time.Duration, what string, check func() error) time.Duration {
	t.Helper()
	start := time.Now()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		err := check()
		took := time.Since(start)
		if err == nil && took <= within {
			return took
		}
		if took > within {
			t.Fatalf("%s: not within %v (%v): %v", what, within, took.Round(time.Millisecond), err)
		}
		<-ticker.C
	}
}

// Hold calls check for the given time and fails the test as soon as it returns an error.
func Hold(t testing.TB, during time.Duration, what string, check func() error) {
	t.Helper()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for end := time.Now().Add(during); time.Now().Before(end); <-ticker.C {
		if err := check(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
