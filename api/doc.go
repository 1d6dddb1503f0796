// Package api owns the admin API: it serves the contract of proto/heddle/v1
// over gRPC and, by its sub-packages, as REST, to the callers that api/callers lets in.
//
// It refuses to know rules: each method is one read of a snapshot or one
// update, and what an actor may change is decided inside the update. It holds
// no state but the places to which watchers may come back.
package api

//go:generate go -C ../proto tool -modfile=tools/go.mod buf generate
