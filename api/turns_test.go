package api_test

import (
	"context"
	"testing"

	"heddle/api"
	"heddle/control/tailnet"
	"heddle/policy"
	v1 "heddle/proto/heddle/v1"
)

// slowHistory answers when it is told to.
type slowHistory struct {
	brokenHistory
	asked, answer chan struct{}
}

func (h slowHistory) Policies(context.Context, string, int, int64) ([]tailnet.PolicyVersion, int64, error) {
	h.asked <- struct{}{}
	<-h.answer
	return nil, 0, nil
}

// TestAuditorsLeaveATurn: however much auditors ask for, an admin's question
// is answered meanwhile.
func TestAuditorsLeaveATurn(t *testing.T) {
	h := slowHistory{asked: make(chan struct{}), answer: make(chan struct{})}
	w := newWorld(t, func(o *api.Options) { o.History = h })
	auditor := with(t, "Bearer "+w.key(tailnet.APIKeySpec{Role: policy.Auditor}))
	remote := v1.NewPolicyServiceClient(w.remote(true, "203.0.113.1:1"))
	done := make(chan error)
	for range 3 {
		go func() {
			_, err := remote.ListPolicies(auditor, &v1.ListPoliciesRequest{})
			done <- err
		}()
	}
	<-h.asked // one of them has its turn
	if _, err := v1.NewPolicyServiceClient(w.local()).CheckPolicy(t.Context(), &v1.CheckPolicyRequest{Policy: "{}"}); err != nil {
		t.Error(err)
	}
	select {
	case <-h.asked:
		t.Error("two auditors have a turn at a time")
	default:
	}
	for i := range 3 {
		h.answer <- struct{}{}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if i < 2 {
			<-h.asked
		}
	}
}
