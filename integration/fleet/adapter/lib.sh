# Sourced by the hooks: a heddle that serves simulated fleets on loopback. The load generator sets
# BENCH_DIR and BENCH_PORT; HEDDLE_BIN names the binary.
set -eu
: "${BENCH_DIR:?}" "${BENCH_PORT:?}" "${HEDDLE_BIN:?must name a heddle binary}"
config=$BENCH_DIR/heddle.yaml
pidfile=$BENCH_DIR/heddle.pid
log=$BENCH_DIR/heddle.log
url=http://127.0.0.1:$BENCH_PORT
private=127.0.0.1:$((BENCH_PORT + 1))

heddle() { "$HEDDLE_BIN" --config "$config" "$@"; }

# issued marks the moment at which a measured command is given.
issued() { printf 'T0=%s\n' "$(date +%s%N)"; }

# alive PID: it runs; one that ended and that nobody waited for does not count.
alive() {
	[ -r "/proc/$1/stat" ] && ! grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null
}

# ends PID SECONDS: wait for its end.
ends() {
	tries=$(($2 * 20))
	while alive "$1"; do
		[ "$tries" -gt 0 ] || return 1
		tries=$((tries - 1))
		sleep 0.05
	done
}
