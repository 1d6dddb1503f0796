package db_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"heddle/control/tailnet"
	"heddle/db"
)

// BenchmarkCommit writes 1 to 10,000 nodes of a tailnet of 10,000 per commit.
func BenchmarkCommit(b *testing.B) {
	for _, count := range []int{1, 1000, 10000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			s := openNew(b)
			all := manyNodes(10000)
			commit(b, s, all)
			d := nodes(1)
			for id := range maps.Keys(all.Nodes.Put) {
				if int(id) <= count {
					d.Nodes.Put[id] = all.Nodes.Put[id]
				}
			}
			for b.Loop() {
				commit(b, s, d)
				d.Base++
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	s := openNew(b)
	commit(b, s, manyNodes(10000))
	for b.Loop() {
		load(b, s, tailnet.Default)
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "heddle.db")
	s := openAt(b, path)
	commit(b, s, manyNodes(10000))
	s.Close()
	for b.Loop() {
		s, err := db.Open(b.Context(), db.Options{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

func BenchmarkBackup(b *testing.B) {
	s := openNew(b)
	commit(b, s, manyNodes(10000))
	path := filepath.Join(b.TempDir(), "copy.db")
	for b.Loop() {
		if err := s.Backup(b.Context(), path); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			b.Fatal(err)
		}
	}
}
