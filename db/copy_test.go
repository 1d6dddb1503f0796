package db_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"heddle/control/tailnet"
	"heddle/db"
)

// A backup shows one moment, whatever is committed meanwhile, and whoever makes it: the server, or a
// program beside it.
func TestBackupWhileCommitting(t *testing.T) { everywhere(t, testBackupWhileCommitting) }

func testBackupWhileCommitting(t *testing.T, at engine) {
	place := at(t)
	s := open(t, place)
	commit(t, s, nodes(0, testNode(1)))
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for base := tailnet.Seq(1); ; base++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			d := nodes(base, testNode(int(base)+1))
			d.Audit = []tailnet.AuditEntry{testAudit(int(base))}
			if err := s.Commit(t.Context(), d); err != nil {
				done <- err
				return
			}
		}
	}()
	dir := t.TempDir()
	for i := range 4 {
		path := filepath.Join(dir, fmt.Sprint(i), "copy.db")
		mkdir(t, filepath.Dir(path))
		var err error
		if i%2 == 0 {
			err = s.Backup(t.Context(), path)
		} else {
			err = db.Save(t.Context(), place, path)
		}
		if err != nil {
			t.Fatal(err)
		}
		copied := openAt(t, path)
		img := load(t, copied, tailnet.Default)
		audit, _, err := copied.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{})
		if err != nil || len(img.Nodes) != int(img.Seq) || len(audit) != min(1000, int(img.Seq)-1) {
			t.Errorf("%d nodes and %d entries at commit %d, %v", len(img.Nodes), len(audit), img.Seq, err)
		}
		if err := copied.Close(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSaveNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.db")
	err := db.Save(t.Context(), db.Options{Path: filepath.Join(t.TempDir(), "none.db")}, path)
	wantError(t, err, tailnet.NotFound, "no database")
	other := filepath.Join(t.TempDir(), "other.db")
	script(t, other, `CREATE TABLE x (id INTEGER)`)
	wantError(t, db.Save(t.Context(), db.Options{Path: other}, path), tailnet.NotFound, "no heddle")
	wantError(t, db.Save(t.Context(), onPostgres(t)(t), path), tailnet.NotFound, "no heddle")
	if left := glob(t, path+"*"); len(left) != 0 {
		t.Errorf("files %q", left)
	}
}
