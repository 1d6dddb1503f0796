// Package crash owns what is tried on the storage of the built heddle: it is killed again and
// again under a storm of logins and approvals, its disk fills up, its database goes away.
// It looks at what is stored through package db, and refuses to know how heddle
// does its work.
//
// `go test ./integration/crash -run Kill -kills 200` is the long run.
package crash
