// Package browser owns a real browser on a host of the lab, headless Chromium, which goes through
// pages like a person. It refuses to know whose pages these are.
package browser
