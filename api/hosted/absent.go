package hosted

import (
	"net/http"

	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
)

// absent are the operations of the hosted service that heddle has nothing for, by path; callers are told so
// in words, with 501, where an unknown path is 404.
var absent = map[string]string{
	"/tailnet/{tailnet}/vip-services/{name}":                            "services (svc:…)",
	"/tailnet/{tailnet}/services/{name}":                                "services (svc:…)",
	"/tailnet/{tailnet}/services/{name}/devices":                        "services (svc:…)",
	"/tailnet/{tailnet}/services/{name}/device/{device}/approved":       "services (svc:…)",
	"/tailnet/{tailnet}/logging/{type}/stream":                          "log streaming; webhooks (/webhooks) deliver events",
	"/tailnet/{tailnet}/logging/{type}/stream/status":                   "log streaming; webhooks (/webhooks) deliver events",
	"/tailnet/{tailnet}/aws-external-id":                                "log streaming; webhooks (/webhooks) deliver events",
	"/tailnet/{tailnet}/aws-external-id/{id}/validate-aws-trust-policy": "log streaming; webhooks (/webhooks) deliver events",
	"/tailnet/{tailnet}/posture/integrations":                           "posture integrations; programs can set attributes (/device/{id}/attributes)",
	"/posture/integrations/{id}":                                        "posture integrations; programs can set attributes (/device/{id}/attributes)",
	"/tailnet/{tailnet}/user-invites":                                   "invitations; users log in through the identity provider, or an admin creates them",
	"/user-invites/{id}":                                                "invitations; users log in through the identity provider, or an admin creates them",
	"/user-invites/{id}/resend":                                         "invitations; users log in through the identity provider, or an admin creates them",
	"/device/{device}/device-invites":                                   "sharing of devices with other tailnets",
	"/device-invites/{id}":                                              "sharing of devices with other tailnets",
	"/device-invites/{id}/resend":                                       "sharing of devices with other tailnets",
	"/device-invites/-/accept":                                          "sharing of devices with other tailnets",
	"/tailnet/{tailnet}/oauth-apps":                                     "OAuth applications; OAuth clients are keys (/tailnet/-/keys)",
	"/tailnet/{tailnet}/oauth-apps/{id}":                                "OAuth applications; OAuth clients are keys (/tailnet/-/keys)",
	"/organizations/-/tailnets":                                         "more than one tailnet",
}

func (s *Server) absentRoutes(r chi.Router) {
	for path, what := range absent {
		r.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if _, err := s.Gate.Identify(r); err != nil {
				fail(w, s.Log, r, err)
				return
			}
			refuse(w, http.StatusNotImplemented, "this server (heddle) does not have "+what, nil)
		})
	}
}

// emptyRoutes are lists of what heddle has none of. Programs ask for them to see whether they may, and
// go on.
func (s *Server) emptyRoutes(r chi.Router) {
	for path, answer := range map[string]any{
		"/vip-services": struct {
			VIPServices []string `json:"vipServices"`
		}{[]string{}},
		"/services": struct {
			VIPServices []string `json:"vipServices"`
		}{[]string{}},
		"/logging/network": struct {
			Logs []string `json:"logs"`
		}{[]string{}},
	} {
		r.Get(path, s.admin(tailnet.Right{}, func(*call) (any, error) { return answer, nil }))
	}
}
