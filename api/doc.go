// Package api owns the admin API: it serves the contract of proto/heddle/v1
// over gRPC, decides who is asking (whoever may open the unix socket, or the
// holder of an API key over TLS) and turns that into a tailnet.Actor.
//
// It refuses to know rules: each method is one read of a snapshot or one
// update, and what an actor may change is decided inside the update. It holds
// no state but the count of failed keys.
package api

//go:generate go -C ../proto tool -modfile=tools/go.mod buf generate
