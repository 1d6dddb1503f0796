package httpcode_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"heddle/control/tailnet"
	"heddle/control/tailnet/httpcode"
)

func TestOf(t *testing.T) {
	seen := map[int]tailnet.Code{}
	for code := tailnet.Internal; code <= tailnet.Unavailable; code++ {
		status := httpcode.Of(fmt.Errorf("wrapped: %w", tailnet.Errorf(code, "x")))
		if other, ok := seen[status]; ok || (status == http.StatusInternalServerError) != (code == tailnet.Internal) {
			t.Errorf("%v is %d, as is %v", code, status, other)
		}
		seen[status] = code
	}
	if got := httpcode.Of(errors.New("of another package")); got != http.StatusInternalServerError {
		t.Errorf("another package's error is %d", got)
	}
}
