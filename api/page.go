package api

import (
	"iter"
	"strconv"

	"heddle/control/tailnet"
)

const (
	defaultPage = 1000
	maxPage     = 20_000 // of nodes: some 30 MB as JSON, which is how programs made for headscale list them
)

// paging is the part of a list request that says which items.
type paging interface {
	GetPageSize() uint32
	GetPageToken() string
}

// page returns the items of a list that req asks for, and the token for what
// follows, empty at the end. The list is in ascending order of id, and the token is the
// last ID returned: additions and deletions between pages neither repeat nor
// hide other items.
func page[T any, ID ~int64](req paging, list iter.Seq[T], id func(T) ID, keep func(T) bool) (items []T, next string, err error) {
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	size = min(size, maxPage)
	after := int64(0)
	if t := req.GetPageToken(); t != "" {
		if after, err = strconv.ParseInt(t, 36, 64); err != nil || after <= 0 {
			return nil, "", tailnet.Errorf(tailnet.Invalid, "page_token %q is not from an earlier response", t)
		}
	}
	for item := range list {
		if int64(id(item)) <= after || !keep(item) {
			continue
		}
		if len(items) == size {
			return items, strconv.FormatInt(int64(id(items[size-1])), 36), nil
		}
		items = append(items, item)
	}
	return items, "", nil
}
