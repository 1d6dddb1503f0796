// Package dirlock keeps a data directory for one process, so that no two servers work in it. It refuses to know
// what is in there.
package dirlock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"heddle/control/tailnet"
)

// A Lock keeps a directory. The kernel frees it when the
// process ends, however it ends; the file stays and means nothing by itself.
type Lock struct {
	f *os.File
}

// patience is how long a killed process of a busy server may take to be
// gone: its kernel threads end one by one, and the last one frees the lock.
const patience = 2 * time.Second

// flockSoon takes the lock, waiting a moment for a process that is ending.
func flockSoon(f *os.File) error {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(end) {
			return err
		}
	}
}

// Name is that of the file that is locked.
const Name = "heddle.lock"

// Take takes a directory. It fails with Conflict if another process has it, and names that.
func Take(dir string) (*Lock, error) {
	path := filepath.Join(dir, Name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &tailnet.Error{
			Code: tailnet.Unavailable,
			Msg:  fmt.Sprintf("the data directory %s cannot be written to: check its owner and rights", dir),
			Err:  err,
		}
	}
	err = flockSoon(f)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, _ := io.ReadAll(io.LimitReader(f, 200))
		f.Close()
		return nil, tailnet.Errorf(tailnet.Conflict, "the data directory %s is in use by another heddle (%s): stop that one first, or give this one a directory of its own", dir, describe(holder))
	}
	if err == nil {
		err = writeHolder(f)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{f}, nil
}

// Release gives the directory free; nil holds none.
func (l *Lock) Release() error {
	if l == nil {
		return nil
	}
	return l.f.Close()
}

// writeHolder leaves a note for the person who meets the lock.
func writeHolder(f *os.File) error {
	host, err := os.Hostname()
	if err != nil {
		host = "?" // only a note: no reason to fail
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(fmt.Appendf(nil, "process %d on host %s\n", os.Getpid(), host), 0)
	if errors.Is(err, syscall.ENOSPC) {
		return nil // a full disk must not keep the server from starting
	}
	return err
}

func describe(holder []byte) string {
	holder = bytes.TrimSpace(holder)
	if len(holder) == 0 {
		return "its process is not known"
	}
	return string(bytes.ToValidUTF8(holder, []byte("?")))
}
