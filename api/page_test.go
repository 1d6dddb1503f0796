package api

import "testing"

type pageRequest struct {
	size  uint32
	token string
}

func (p pageRequest) GetPageSize() uint32  { return p.size }
func (p pageRequest) GetPageToken() string { return p.token }

func FuzzPage(f *testing.F) {
	f.Add(uint32(0), "")
	f.Add(uint32(3), "2")
	f.Add(uint32(1<<31), "zzzzzzzzzzzzzz")
	f.Fuzz(func(t *testing.T, size uint32, token string) {
		list := func(yield func(int64) bool) {
			for i := range int64(10) {
				if !yield(i + 1) {
					return
				}
			}
		}
		self := func(i int64) int64 { return i }
		even := func(i int64) bool { return i%2 == 0 }
		items, next, err := page(pageRequest{size, token}, list, self, even)
		if err != nil {
			return
		}
		if len(items) > 5 || next != "" && uint32(len(items)) != size {
			t.Errorf("%v, %q", items, next)
		}
	})
}

func FuzzParsePrefixes(f *testing.F) {
	f.Add("10.0.0.0/8")
	f.Add("fe80::1%eth0")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parsePrefixes([]string{text})
		if err == nil && (len(list) != 1 || !list[0].IsValid()) {
			t.Errorf("%q: %v", text, list)
		}
	})
}
