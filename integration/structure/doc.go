// Package structure owns the test of the house rules that a machine can check:
// which package may import which, one comment a package, and the budgets of files,
// functions, packages and structs. It holds no code of the server.
package structure
