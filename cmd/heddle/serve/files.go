package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"heddle/api"
	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"
	"heddle/policy"
)

// watchEvery is how often watched files are looked at. Polling survives
// editors that replace files, network file systems and Kubernetes' symlinks.
const watchEvery = 2 * time.Second

// maxFile bounds a watched file.
const maxFile = 8 << 20

// take takes over the content of a file, or why it cannot be read.
type take func(ctx context.Context, path string, data []byte, err error)

// watch takes over the file that the configuration in force names, now and whenever its content or its
// name changes, until ctx ends. A name of "" is no file. Why one cannot be read is told once.
func (s *server) watch(ctx context.Context, name func(*config.Config) string, fn take) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var w watched
	for {
		if end, err := s.inForce.begin(ctx); err == nil {
			if path := name(s.config()); path != w.path {
				w = watched{path: path}
			}
			w.look(ctx, fn)
			end()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// watched is a file and what is known of it.
type watched struct {
	path    string
	looked  bool
	stamp   fileStamp
	known   bool // last is what was taken over
	last    []byte
	failure string // why it could not be read the last time
}

func (w *watched) look(ctx context.Context, fn take) {
	if w.path == "" {
		return
	}
	now, err := stampOf(w.path)
	if err == nil && now == w.stamp && w.looked {
		return
	}
	data, err := readBounded(w.path)
	switch {
	case err != nil && err.Error() != w.failure:
		fn(ctx, w.path, nil, unreadable(err))
	case err == nil && (!w.known || w.failure != "" || !bytes.Equal(data, w.last)):
		fn(ctx, w.path, data, nil)
		w.last, w.known = data, true
	}
	if w.failure = ""; err != nil {
		w.failure = err.Error()
	}
	w.stamp, w.looked = now, true
}

func unreadable(err error) error {
	return tailnet.Errorf(tailnet.Unavailable, "it cannot be read: %v", err)
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

func recordsPath(c *config.Config) string { return c.DNS.ExtraRecordsPath }
func policyPath(c *config.Config) string  { return c.Policy.Path }

// setRecords takes over the file of extra DNS records.
func (s *server) setRecords(ctx context.Context, path string, data []byte, err error) {
	var records []tailnet.DNSRecord
	if err == nil {
		records, err = parseRecords(data)
	}
	if err == nil {
		err = s.update(ctx, "dns.extra_records_path", func(tx *tailnet.Tx) error { return tx.SetDNSFileRecords(records) })
	}
	s.noteFile(ctx, path, data, err)
}

// prepareRecords reads the file of extra DNS records; without one there are none.
func (s *server) prepareRecords(_ context.Context, cfg *config.Config) (change, error) {
	path := recordsPath(cfg)
	var records []tailnet.DNSRecord
	data, err := readNamed(path)
	if err == nil && path != "" {
		records, err = parseRecords(data)
	}
	return change{
		state: func(tx *tailnet.Tx) error { return about(path, tx.SetDNSFileRecords(records)) },
		take:  func() { s.sockets.files.note(path, data, nil) },
	}, about(path, err)
}

// readNamed reads a file that the configuration names; "" is no file.
func readNamed(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := readBounded(path)
	if err != nil {
		return nil, unreadable(err)
	}
	return data, nil
}

// about puts the name of a file before an error, and before each problem of a policy; nil stays nil.
func about(path string, err error) error {
	if err == nil {
		return nil
	}
	var problems policy.Errors
	if errors.As(err, &problems) {
		return fmt.Errorf("%s: %s", path, strings.ReplaceAll(problems.Error(), "\n", "\n"+path+": "))
	}
	return fmt.Errorf("%s: %w", path, err)
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
func (s *server) setPolicy(ctx context.Context, path string, data []byte, err error) {
	var set *tailnet.PreparedPolicy
	if err == nil {
		set, _, err = s.state.PutPolicy(ctx, tailnet.SystemActor("policy.path"), string(data), "")
	}
	if err == nil {
		s.warnOfPolicy(path, set)
	}
	s.noteFile(ctx, path, data, err)
}

func (s *server) warnOfPolicy(path string, p *tailnet.PreparedPolicy) {
	for _, w := range p.Warnings {
		s.Log.Warn("the policy may not do what it should", "file", path, "line", w.Line, "reason", w.Msg)
	}
}

// preparePolicy reads the policy file. Without one the policy stays, and the API may change it.
func (s *server) preparePolicy(_ context.Context, cfg *config.Config) (change, error) {
	path := policyPath(cfg)
	data, err := readNamed(path)
	if err != nil || path == "" {
		return change{}, about(path, err)
	}
	p, err := tailnet.PreparePolicy(s.state.Snapshot(), string(data))
	if err != nil {
		return change{}, about(path, err)
	}
	return change{
		state: func(tx *tailnet.Tx) error { return tx.SetPolicy(p, "") },
		take: func() {
			s.sockets.files.note(path, data, nil)
			s.warnOfPolicy(path, p)
		},
	}, nil
}

// policyFile is what the API tells of the policy file; nil if there is none.
func (s *server) policyFile() *api.PolicyFile {
	path := policyPath(s.config())
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
