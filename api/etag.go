package api

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"heddle/control/tailnet"

	"google.golang.org/protobuf/proto"
)

// etagOf names what a message says. It is good for one version of heddle.
func etagOf(m proto.Message) string {
	text, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m) // fails only for text that is no UTF-8, which the model has none of
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// matchETag refuses a change of what is not what its caller saw. An empty ifMatch
// matches everything. It belongs into an update.
func matchETag(ifMatch, now, what string) error {
	if ifMatch != "" && strings.Trim(ifMatch, `"`) != now {
		return tailnet.Errorf(tailnet.Changed, "%s have changed meanwhile (their etag is %s now); read them again", what, now)
	}
	return nil
}
