package derp

import "tailscale.com/tailcfg"

func checkRegion(id int, r *tailcfg.DERPRegion) error { return nil }
