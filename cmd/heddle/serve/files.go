package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"heddle/api"
	"heddle/control/tailnet"
)

// watchEvery is how often watched files are looked at. Polling survives
// editors that replace files, network file systems and Kubernetes' symlinks.
const watchEvery = 2 * time.Second

// maxFile bounds a watched file.
const maxFile = 8 << 20

// watch calls fn with the content of a file now and whenever it changes, until
// ctx ends. Why a file cannot be read is told once, by a call with the error.
func watch(ctx context.Context, path string, fn func([]byte, error)) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var last []byte
	var stamp fileStamp
	known, failure := false, ""
	for first := true; ; first = false {
		if now, err := stampOf(path); err != nil || now != stamp || first {
			data, err := readBounded(path)
			switch {
			case err != nil && err.Error() != failure:
				fn(nil, tailnet.Errorf(tailnet.Unavailable, "it cannot be read: %v", err))
			case err == nil && (!known || failure != "" || !bytes.Equal(data, last)):
				fn(data, nil)
				last, known = data, true
			}
			if failure = ""; err != nil {
				failure = err.Error()
			}
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
func (s *server) setRecords(ctx context.Context, data []byte, err error) {
	var records []tailnet.DNSRecord
	if err == nil {
		records, err = parseRecords(data)
	}
	if err == nil {
		err = s.update(ctx, "dns.extra_records_path", func(tx *tailnet.Tx) error { return tx.SetDNSFileRecords(records) })
	}
	s.noteFile(ctx, s.cfg.DNS.ExtraRecordsPath, data, err)
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
// policy in force, and is told in the log, in `heddle health` and in `heddle policy get`.
func (s *server) setPolicy(ctx context.Context, data []byte, err error) {
	var set *tailnet.PreparedPolicy
	if err == nil {
		set, _, err = s.state.PutPolicy(ctx, tailnet.SystemActor("policy.path"), string(data), "")
	}
	if err == nil {
		for _, w := range set.Warnings {
			s.Log.Warn("the policy asks for what it does not get", "file", s.cfg.Policy.Path, "line", w.Line, "reason", w.Msg)
		}
	}
	s.noteFile(ctx, s.cfg.Policy.Path, data, err)
}

// policyFile is what the API tells of the policy file; nil if there is none.
func (s *server) policyFile() *api.PolicyFile {
	path := s.cfg.Policy.Path
	if path == "" {
		return nil
	}
	return &api.PolicyFile{Path: path, Refused: func() ([]byte, error) { return s.sockets.files.refused(path) }}
}

// noteFile notes what became of the content of a watched file.
func (s *server) noteFile(ctx context.Context, path string, data []byte, err error) {
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.Log.Error("a watched file is not taken over; what was in force stays so", "file", path, "err", err)
	}
	s.sockets.files.note(path, data, err)
}

// files are the watched files whose content is refused at present.
type files struct {
	mu  sync.Mutex
	bad map[string]refusedFile
}

type refusedFile struct {
	data []byte
	err  error
}

func (f *files) note(path string, data []byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bad == nil {
		f.bad = map[string]refusedFile{}
	}
	if err == nil {
		delete(f.bad, path)
		return
	}
	f.bad[path] = refusedFile{data, err}
}

// refused returns the content of a file and what is wrong with it.
func (f *files) refused(path string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bad[path].data, f.bad[path].err
}
