package login_test

import "testing"

// Clients send people who have to be approved to /admin.
func TestAdminPage(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		for _, path := range []string{"/admin", "/admin/machines"} {
			w.browser().get(path).says(t, 200, "heddle nodes approve NAME")
		}
	})
}
