// Package controltest owns an in-process server for tests and a client that
// follows a script: the control protocol as stock clients speak it, without a data plane. All runs
// in memory, so a test in a synctest bubble has a clock of its own. It is for tests only.
package controltest
