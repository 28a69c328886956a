# Serves disk images with qemu-nbd for as long as standard input stays open, which is as long as
# the connection lives. Each argument is one server's options, quoted for this shell; server N
# listens on DIR/N. Says "ready DIR", or "failed N WHY" and ends. At the end of input every server
# is ended in good order (images closed and flushed) and "stopped STATUS..." is said.
# First of all it ends what an earlier one left that was killed; with the one argument "sweep", only that.
set -u
umask 077
trap '' PIPE

# When a process began, which with its number makes it one of a kind (proc(5), field 22).
began() {
    read -r line 2>/dev/null <"/proc/$1/stat" || return 1
    set -- ${line##*) }
    echo "${20}"
}

# End the servers and remove the folder of every script of ours, of this user, that lives no more.
sweep() {
    for old in "${TMPDIR:-/tmp}"/vmconsole-nbd.??????????; do
        [ -d "$old" ] && [ ! -L "$old" ] && [ -O "$old" ] || continue
        read -r owner start 2>/dev/null <"$old/owner" || continue
        [ "$(began "$owner")" != "$start" ] || continue
        for file in "$old"/*.pid; do
            read -r pid 2>/dev/null <"$file" || continue
            turn=0
            while [ "$turn" -lt 50 ] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$old/"; do
                if [ "$turn" -lt 40 ]; then kill -TERM "$pid"; else kill -KILL "$pid"; fi 2>/dev/null
                sleep 0.1
                turn=$((turn + 1))
            done
        done
        rm -rf -- "$old"
    done
}

sweep
[ "$*" != sweep ] || exit 0
command -v qemu-nbd >/dev/null 2>&1 || { echo "missing qemu-nbd"; exit 127; }
dir=$(mktemp -d "${TMPDIR:-/tmp}/vmconsole-nbd.XXXXXXXXXX") || { echo "failed - no folder for sockets"; exit 1; }
echo "$$ $(began $$)" >"$dir/owner"
pids=

finish() {
    trap : HUP INT TERM
    trap - EXIT
    [ -z "$pids" ] || kill -TERM $pids 2>/dev/null
    # A server stuck on dead storage must not keep its socket and this shell for ever.
    (
        # Short naps: what is left of this when it is killed is gone within a second.
        naps=0
        while [ "$naps" -lt 30 ]; do sleep 1; naps=$((naps + 1)); done
        [ -z "$pids" ] || kill -KILL $pids 2>/dev/null
    ) </dev/null >/dev/null 2>&1 &
    reaper=$!
    report=
    for pid in $pids; do
        wait "$pid"
        report="$report $?"
    done
    # Not TERM: just after the fork the child still has our own trap, and would lose it.
    kill -KILL "$reaper" 2>/dev/null
    wait "$reaper"
    rm -rf -- "$dir"
    echo "stopped$report"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

serve() {
    number=$1
    eval "set -- $2"
    qemu-nbd --socket="$dir/$number" --pid-file="$dir/$number.pid" "$@" \
        </dev/null >/dev/null 2>"$dir/$number.err" &
    pids="$pids $!"
}

fail() {
    printf 'failed %s ' "$1"
    head -c 2000 "$dir/$1.err" | tr '\n' ' '
    echo
    exit 1
}

number=0
for options in "$@"; do
    serve "$number" "$options"
    number=$((number + 1))
done
number=0
for pid in $pids; do
    tries=0
    # The socket exists before the image is open; the pid file comes when everything is ready.
    until [ -s "$dir/$number.pid" ]; do
        kill -0 "$pid" 2>/dev/null || fail "$number"
        [ "$tries" -lt 1200 ] || fail "$number"
        tries=$((tries + 1))
        sleep 0.05
    done
    number=$((number + 1))
done
echo "ready $dir"
while read -r _; do :; done
