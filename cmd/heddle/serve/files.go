package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"heddle/control/tailnet"
)

// watchEvery is how often watched files are looked at. Polling survives
// editors that replace files, network file systems and Kubernetes' symlinks.
const watchEvery = 2 * time.Second

// maxFile bounds a watched file.
const maxFile = 8 << 20

// watch calls fn with the content of a file now and whenever it changes, until
// ctx ends. A file that cannot be read is logged once and leaves the old content in force.
func watch(ctx context.Context, path string, fn func([]byte), log *slog.Logger) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var last []byte
	var stamp fileStamp
	failed := false
	for first := true; ; first = false {
		if now, err := stampOf(path); err != nil || now != stamp || first {
			data, err := readBounded(path)
			switch {
			case err != nil && !failed:
				log.Error("a watched file cannot be read; what was in force stays so", "file", path, "err", err)
			case err == nil && (first || !bytes.Equal(data, last)):
				fn(data)
				last = data
			}
			failed = err != nil
			stamp = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

type fileStamp struct {
	size int64
	mod  time.Time
}

func stampOf(path string) (fileStamp, error) {
	st, err := os.Stat(path)
	if err != nil {
		return fileStamp{}, err
	}
	return fileStamp{st.Size(), st.ModTime()}, nil
}

func readBounded(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxFile {
		return nil, fmt.Errorf("it has %d bytes; the most is %d", st.Size(), maxFile)
	}
	return os.ReadFile(path)
}

// setRecords takes over the file of extra DNS records.
func (s *server) setRecords(ctx context.Context, data []byte) {
	records, err := parseRecords(data)
	if err != nil {
		s.Log.Error("extra DNS records are not taken over; the old ones stay", "file", s.cfg.DNS.ExtraRecordsPath, "err", err)
		s.sockets.fileErrs.set("dns records", err)
		return
	}
	err = s.try(ctx, "dns.extra_records_path", func(tx *tailnet.Tx) error { return tx.SetDNSFileRecords(records) })
	s.sockets.fileErrs.set("dns records", err)
}

// parseRecords reads [{"name": …, "type": …, "value": …}, …].
func parseRecords(data []byte) ([]tailnet.DNSRecord, error) {
	var raw []struct {
		Name  string `json:"name"`
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&raw); err != nil {
		line := 1 + bytes.Count(data[:min(int(dec.InputOffset()), len(data))], []byte("\n"))
		return nil, fmt.Errorf("near line %d: %w (want a list of objects with name, type and value)", line, err)
	}
	records := make([]tailnet.DNSRecord, len(raw))
	for i, r := range raw {
		records[i] = tailnet.DNSRecord{Name: r.Name, Type: r.Type, Value: r.Value}
	}
	return records, nil
}

// setPolicy takes over the watched policy file. An invalid edit keeps the
// running policy, and is told in the log and in `heddle health`.
func (s *server) setPolicy(ctx context.Context, data []byte) {
	if s.state.Snapshot().Policy().Source == string(data) && s.state.Snapshot().Policy().Err == nil {
		s.sockets.fileErrs.set("policy", nil)
		return
	}
	prepared, err := tailnet.PreparePolicy(s.state.Snapshot(), string(data))
	if err == nil {
		err = s.try(ctx, "policy.path", func(tx *tailnet.Tx) error { return tx.SetPolicy(prepared, "") })
	}
	s.sockets.fileErrs.set("policy", err)
}

// fileErrors are what is wrong with watched files at present.
type fileErrors struct {
	mu   sync.Mutex
	errs map[string]error
}

func (f *fileErrors) set(what string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.errs == nil {
		f.errs = map[string]error{}
	}
	f.errs[what] = err
}

func (f *fileErrors) get(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.errs[what]
}
