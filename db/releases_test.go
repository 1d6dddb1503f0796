package db_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"heddle/control/tailnet"
	"heddle/db"

	"github.com/google/go-cmp/cmp"
)

// Databases of earlier releases, made by them with the functions of fixture_test.go as they were
// then, in testdata/vN.db.gz, where N is the version of the schema.

// unpack makes a database of a release.
func unpack(t *testing.T, version int) string {
	t.Helper()
	packed, err := os.Open(fmt.Sprintf("testdata/v%d.db.gz", version))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	in, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "heddle.db")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); errors.Join(err, out.Close()) != nil {
		t.Fatal(err)
	}
	return path
}

// imageV1 is what a database of version 1 holds: what came later has the value that
// leaves everything as it was.
func imageV1() tailnet.Image {
	_, img := fullDelta()
	img.Seq, img.LastID.Node = 2, 4
	n3, n4 := testNode(3), testNode(4)
	n3.Tags, n4.Owner = nil, 0
	img.Nodes = append(img.Nodes, n3, n4)
	for _, n := range img.Nodes {
		n.Terms = tailnet.Terms{Ephemeral: true}
	}
	img.Users = append(img.Users, testUser(8))
	for _, u := range img.Users {
		u.Status, u.Identities, u.Groups = tailnet.UserActive, nil, nil
	}
	img.AuthKeys[0].Approved, img.AuthKeys[0].Bcrypt = false, ""
	k := img.APIKeys[0]
	k.Kind, k.Parent, k.Trust, k.Owner, k.Scopes, k.Tags, k.Description = tailnet.KeyAPI, 0, nil, 0, nil, nil, ""
	*img.Settings = tailnet.Settings{DNS: img.Settings.DNS}
	return img
}

func TestEarlierReleases(t *testing.T) {
	for version, want := range map[int]tailnet.Image{1: imageV1()} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			path := unpack(t, version)
			script(t, path, `CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)`, `INSERT INTO _litestream_seq VALUES (1, 42)`)
			s := openAt(t, path)
			if diff := cmp.Diff(want, load(t, s, tailnet.Default), equal); diff != "" {
				t.Errorf("upgraded (-want +got):\n%s", diff)
			}
			audit, _, err := s.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{})
			if err != nil || len(audit) != 3 || audit[0].Target != "node 3" || audit[2].At != testAudit(1).At || audit[0].Actor.Name != "kP1" {
				t.Errorf("audit log %+v, %v", audit, err)
			}
			saved := glob(t, path+".v*")
			if len(saved) != 1 || !strings.HasPrefix(saved[0], fmt.Sprintf("%s.v%d-", path, version)) {
				t.Errorf("copies: %q", saved)
			}
			// A server runs on it, and it moves to PostgreSQL.
			p := &process{store: s}
			p.State, err = tailnet.Open(t.Context(), s, tailnet.Options{})
			if err != nil || p.Snapshot().NumNodes() != len(want.Nodes) {
				t.Fatalf("%v", err)
			}
			s.Close()
			script(t, path, `UPDATE _litestream_seq SET seq = seq / (seq = 42)`)
			s = openAt(t, path)
			target := open(t, onPostgres(t)(t))
			if _, err := s.CopyTo(t.Context(), target); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, load(t, target, tailnet.Default), equal); diff != "" {
				t.Errorf("moved (-want +got):\n%s", diff)
			}
			// The copy that was made before is what the earlier release wrote.
			again := db.Options{Path: filepath.Join(t.TempDir(), "again.db")}
			if err := os.Rename(saved[0], again.Path); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, load(t, open(t, again), tailnet.Default), equal); diff != "" {
				t.Errorf("the copy (-want +got):\n%s", diff)
			}
		})
	}
}
