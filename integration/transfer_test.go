//go:build linux

package integration_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"heddle/integration/lab"
	"heddle/integration/stock"
)

// transfer is one TCP connection through the tunnel that carries numbered records without end.
type transfer struct {
	records atomic.Int64 // received in order
	stall   atomic.Int64 // longest time between two records, in nanoseconds

	mu  sync.Mutex
	err error // guarded by mu: why the connection broke
}

// recordEvery is the pace of a transfer, and recordSize fills a few packets.
const (
	recordEvery = 10 * time.Millisecond
	recordSize  = 4096
)

// startTransfer lets to download from from until the test ends.
func startTransfer(t *testing.T, from, to *stock.Client) *transfer {
	t.Helper()
	ln, err := from.Listen(net.JoinHostPort(from.IPv4(t).String(), "7000"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := to.Dial(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	sender, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	tr := &transfer{}
	var wg sync.WaitGroup
	wg.Go(func() { tr.fail(send(sender)) })
	wg.Go(func() { tr.fail(tr.receive(conn)) })
	t.Cleanup(func() {
		sender.Close()
		conn.Close()
		wg.Wait()
	})
	return tr
}

func send(w io.Writer) error {
	ticker := time.NewTicker(recordEvery)
	defer ticker.Stop()
	record := make([]byte, recordSize)
	for n := uint64(0); ; n++ {
		binary.BigEndian.PutUint64(record, n)
		if _, err := w.Write(record); err != nil {
			return err
		}
		<-ticker.C
	}
}

func (tr *transfer) receive(r io.Reader) error {
	record := make([]byte, recordSize)
	last := time.Now()
	for n := uint64(0); ; n++ {
		if _, err := io.ReadFull(r, record); err != nil {
			return err
		}
		if got := binary.BigEndian.Uint64(record); got != n {
			return fmt.Errorf("record %d came in place of %d", got, n)
		}
		now := time.Now()
		tr.stall.Store(max(tr.stall.Load(), int64(now.Sub(last))))
		last = now
		tr.records.Add(1)
	}
}

func (tr *transfer) fail(err error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.err == nil {
		tr.err = err
	}
}

// awaitMore waits until n more records have come over the same connection.
func (tr *transfer) awaitMore(t *testing.T, within time.Duration, n int64) {
	t.Helper()
	want := tr.records.Load() + n
	lab.Await(t, within, "the transfer goes on", func() error {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if tr.err != nil {
			t.Fatalf("the connection broke: %v", tr.err)
		}
		if got := tr.records.Load(); got < want {
			return fmt.Errorf("%d of %d records have come", got, want)
		}
		return nil
	})
}

// longestStall is the longest time between two records.
func (tr *transfer) longestStall() time.Duration { return time.Duration(tr.stall.Load()) }

func containsLine(text, part string) bool {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return true
		}
	}
	return false
}
