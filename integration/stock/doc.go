// Package stock runs unmodified Tailscale clients on the hosts of a lab.
//
// It owns the life of one tailscaled process, its state directory and its command line, and asks
// the client itself for everything it reports. It knows nothing of the server that the client
// logs in to but the URL.
package stock
