package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

// throughGRPC answers REST requests by calls over a gRPC connection: what differs from the
// server's own REST API differs between gRPC and REST.
func throughGRPC(t *testing.T, conn *grpc.ClientConn, failed *error) http.Handler {
	t.Helper()
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{EmitUnpopulated: true}}),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, _ http.ResponseWriter, _ *http.Request, err error) {
			*failed = err
		}),
	)
	err := errors.Join(
		v1.RegisterHealthServiceHandler(t.Context(), mux, conn), v1.RegisterUserServiceHandler(t.Context(), mux, conn),
		v1.RegisterPreAuthKeyServiceHandler(t.Context(), mux, conn), v1.RegisterNodeServiceHandler(t.Context(), mux, conn),
		v1.RegisterAuthServiceHandler(t.Context(), mux, conn), v1.RegisterPolicyServiceHandler(t.Context(), mux, conn),
		v1.RegisterApiKeyServiceHandler(t.Context(), mux, conn), v1.RegisterDNSServiceHandler(t.Context(), mux, conn),
		v1.RegisterSettingsServiceHandler(t.Context(), mux, conn), v1.RegisterDERPServiceHandler(t.Context(), mux, conn),
		v1.RegisterDebugServiceHandler(t.Context(), mux, conn), v1.RegisterWebhookServiceHandler(t.Context(), mux, conn),
		v1.RegisterAuditServiceHandler(t.Context(), mux, conn), v1.RegisterOAuthClientServiceHandler(t.Context(), mux, conn),
		v1.RegisterConfigServiceHandler(t.Context(), mux, conn),
	)
	if err != nil {
		t.Fatal(err)
	}
	return mux
}

// The same calls have the same results over gRPC and REST: answers, codes, messages and
// the problems of policies.
func TestGRPCAndRESTAgree(t *testing.T) {
	overREST, overGRPC := furnished(t), furnished(t)
	restKey, grpcKey := overREST.key(tailnet.APIKeySpec{Role: "owner"}), overGRPC.key(tailnet.APIKeySpec{Role: "owner"})
	h := overREST.rest()
	var failed error
	g := throughGRPC(t, overGRPC.remote(true, elsewhere), &failed)
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			a := ask(h, s.method, "/api/v1"+overREST.hook(s.path), restKey, s.body)
			failed = nil
			// Only REST takes a number for a name.
			body := strings.ReplaceAll(s.body, `"user": 2`, `"user": "2"`)
			r := httptest.NewRequest(s.method, "/api/v1"+overGRPC.hook(s.path), strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+grpcKey)
			rec := httptest.NewRecorder()
			g.ServeHTTP(rec, r)
			if failed == nil {
				if a.Status != http.StatusOK {
					t.Fatalf("REST fails with status %d, gRPC does not: %s", a.Status, a.Body)
				}
				if diff := cmp.Diff(plain(t, rec.Body.String()), plain(t, a.Body)); diff != "" {
					t.Errorf("-gRPC +REST:\n%s", diff)
				}
				return
			}
			st := status.Convert(failed)
			var p struct {
				Code, Detail string
				Problems     []struct{ Message string }
			}
			if err := json.Unmarshal([]byte(a.Body), &p); err != nil {
				t.Fatalf("gRPC fails with %v, REST does not: %s", failed, a.Body)
			}
			want := map[codes.Code]string{
				codes.InvalidArgument: "invalid", codes.NotFound: "not_found", codes.FailedPrecondition: "conflict",
				codes.Aborted: "changed", codes.PermissionDenied: "denied", codes.Unimplemented: "unimplemented",
			}[st.Code()]
			if p.Code != want || p.Detail != st.Message() {
				t.Errorf("gRPC: %v; REST: %s, %s", failed, p.Code, p.Detail)
			}
			problems := 0
			for _, d := range st.Details() {
				if list, ok := d.(*v1.PolicyProblems); ok {
					problems = len(list.GetProblems())
				}
			}
			if len(p.Problems) != problems {
				t.Errorf("gRPC tells %d problems, REST %d", problems, len(p.Problems))
			}
		})
	}
}

// plain is JSON without what differs from run to run.
func plain(t *testing.T, text string) (out any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err, text)
	}
	indented, _ := json.MarshalIndent(out, "", "  ")
	text = string(indented)
	for _, v := range volatile {
		text = v.re.ReplaceAllString(text, v.to)
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err, text)
	}
	return out
}

// Programs find out by reflection what there is, over both listeners.
func TestReflection(t *testing.T) {
	w := newWorld(t)
	remote := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+w.key(tailnet.APIKeySpec{Role: "auditor"}))
	for name, c := range map[string]struct {
		ctx  context.Context
		conn *grpc.ClientConn
	}{"local": {t.Context(), w.local()}, "remote": {remote, w.remote(true, elsewhere)}} {
		stream, err := reflectionv1.NewServerReflectionClient(c.conn).ServerReflectionInfo(c.ctx)
		if err != nil {
			t.Fatal(name, err)
		}
		if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
			t.Fatal(name, err)
		}
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(name, err)
		}
		found := map[string]bool{}
		for _, s := range resp.GetListServicesResponse().GetService() {
			found[s.GetName()] = true
		}
		for _, want := range []string{"heddle.v1.NodeService", "heddle.v1.WatchService", "grpc.health.v1.Health"} {
			if !found[want] {
				t.Errorf("%s: no service %s in %v", name, want, found)
			}
		}
	}
}
