# Holds a backup job on the host and undoes it when vmconsole vanishes. POSIX sh.
#
# $1 hold|clean  $2 uri  $3 uuid  $4 checkpoint (may be empty)  $5 mark: text only our job's XML holds
# $6 folder whose free space is watched  $7 bytes to keep free there  $8 freeze: yes|no
# $9 seconds the guest may stay frozen  $10 seconds for an answer of the guest agent
# $11 seconds of silence on stdin after which vmconsole counts as gone; then: files to remove
#
# hold: commands on stdin, one a line, answers on stdout behind "@ ":
#   cut (then a line of backup XML and one of checkpoint XML)   freeze.. cut.. thaw.. ready|failed
#            (or a line of snapshot XML and an empty one)
#   cut together (as cut)   freeze.. waiting, and then go or apart: go on, or thaw and fail
#   status   job ours|none|foreign|unknown, then the domain's state
#   release  end the job, keep the checkpoint: released|stuck
#   keep     the checkpoint stays from here on: kept
#   rollback undo everything: clean|stuck, and exit
#   done     exit      beat  nothing: a sign of life
# The end of stdin, or silence, is a rollback that honours `keep`. So is the death of this shell: the
# watcher does it then.
# clean: a rollback at once; $8 says whether the guest may still be frozen.

LC_ALL=C; export LC_ALL
trap '' HUP PIPE INT
mode=$1 uri=$2 uuid=$3 checkpoint=$4 mark=$5 folder=$6 reserve=$7 freeze=$8 budget=$9
shift 9
patience=$1 silence=$2
shift 2

watcher= keep=no pending=no uncertain=no before=

say() { printf '@ %s\n' "$*" 2>/dev/null; }
within() { seconds=$1; shift; timeout -k 5 "$seconds" virsh -c "$uri" "$@" </dev/null; }
v() { within 40 "$@"; }
flat() { printf '%s' "$1" | tr '\n\r\t' '   ' | head -c 600; }
now() { read -r up rest </proc/uptime; up=${up%.*}${up#*.}; }
next() { line=$(timeout "$silence" sh -c 'IFS= read -r line && printf "%s" "$line"'); }

# The job of this domain: none, ours, foreign, or unknown while libvirt does not answer.
look() {
    xml=$(v backup-dumpxml "$uuid" 2>&1)
    status=$?
    case $status,$xml in
    0,*"$mark"*) job=ours ;;
    0,*) job=foreign ;;
    *"no domain backup job"*|*"omain not found"*|*"not running"*|*"failed to get domain"*) job=none ;;
    *) job=unknown ;;
    esac
}

# End our job and wait until it is gone. False when that could not be seen within two minutes.
end_job() {
    turn=0 ask=0
    while [ "$turn" -lt 130 ]; do
        look
        case $job in
        none) [ "$uncertain" = no ] && return 0
              [ "$turn" -ge 40 ] && return 0 ;;
        foreign) return 0 ;;
        ours) uncertain=no
              if [ "$turn" -ge "$ask" ]; then
                  v domjobabort "$uuid" >/dev/null 2>&1
                  ask=$((turn + 20))
              fi ;;
        esac
        if [ "$turn" -lt 3 ]; then sleep 0.02; elif [ "$turn" -lt 10 ]; then sleep 0.1; else sleep 1; fi
        turn=$((turn + 1))
    done
    return 1
}

thaw() {
    errors=$(within $((patience + 5)) domfsthaw "$uuid" 2>&1 >/dev/null) && pending=no
    case $errors in
    *"not running"*|*"not connected"*|*"not configured"*|*"omain not found"*|*"failed to get domain"*) pending=no ;;
    esac
}

# A guest that was stopped by a full disk can go on once the scratch file is gone.
wake() {
    case $before in "paused (I/O error)"*) return ;; esac
    case $(v domstate "$uuid" --reason 2>/dev/null) in
    "paused (I/O error)"*) v resume "$uuid" >/dev/null 2>&1 && say resumed ;;
    esac
}

drop_checkpoint() {
    [ -n "$checkpoint" ] || return 0
    errors=$(v checkpoint-delete "$uuid" "$checkpoint" 2>&1 >/dev/null) && return 0
    case $errors in
    *"heckpoint not found"*|*"no domain checkpoint"*|*"omain not found"*|*"failed to get domain"*) return 0 ;;
    *"not found in backing chain"*) v checkpoint-delete "$uuid" "$checkpoint" --metadata >/dev/null 2>&1 ;;
    # The next backup of the running guest removes it: libvirt cannot while the guest is off.
    *inactive*|*"not running"*) say "left $checkpoint"; return 0 ;;
    *) return 1 ;;
    esac
}

undo() {
    stop_watching
    [ "$pending" = yes ] && thaw
    end_job || { say "stuck the backup job did not end: $(flat "$xml")"; return 1; }
    # A method that left more than files brings its own way back.
    if type undo_more >/dev/null 2>&1; then
        undo_more || { say "stuck $(flat "$errors")"; return 1; }
    fi
    wake
    rm -f -- "$@" 2>/dev/null
    [ "$keep" = yes ] && return 0
    drop_checkpoint || { say "stuck $checkpoint could not be removed: $(flat "$errors")"; return 1; }
}

stop_watching() {
    [ -n "$watcher" ] && kill "$watcher" 2>/dev/null
    watcher=
}

# For the watcher: a second that ends with it, and that nobody who reads our output waits for.
nap() {
    sleep 1 >/dev/null &
    nap=$!
    wait "$nap"
}

# For the watcher: stay, so that its number is not given to somebody else before the shell ends it.
linger() {
    while kill -0 $$ 2>/dev/null; do nap; done
    exit 0
}

# Bytes free in the folder; as good as endless when nobody knows.
free_bytes() {
    set -- $(stat -f -c '%a %S' -- "$folder" 2>/dev/null)
    if [ $# -eq 2 ]; then echo $(($1 * $2)); else echo 9000000000000000000; fi
}

watch() {
    trap 'kill "$nap" 2>/dev/null; exit 0' TERM
    turn=0
    while nap; do
        turn=$((turn + 1))
        kill -0 $$ 2>/dev/null || { undo "$@"; exit 0; }
        free=$(free_bytes)
        [ "$free" -lt "$reserve" ] && { say "scratch $free"; give_up; }
        if [ $((turn % 3)) -eq 0 ]; then
            case $(v domstate "$uuid" --reason 2>/dev/null) in
            "$before") ;;
            "paused (I/O error)"*) say "ioerror"; give_up ;;
            "shut off"*|crashed*) say "stopped"; linger ;;
            esac
        fi
        if [ "$pending" = yes ] && [ $((turn % 5)) -eq 0 ]; then
            thaw; [ "$pending" = no ] && say "late-thaw"
        fi
    done
}

give_up() {
    end_job
    wake
    say "gave-up"
    linger
}

freeze_guest() {
    say "freezing"
    within 10 guest-agent-timeout "$uuid" --timeout "$patience" >/dev/null 2>&1
    (
        ended=no fired=0
        trap 'ended=yes; kill "$nap"' TERM
        sleep "$budget" &
        nap=$!
        wait "$nap"
        nap=
        if [ "$ended" = no ]; then
            fired=7
            within $((patience + 5)) domfsthaw "$uuid"
        fi
        # Stay, so that our number is not given to somebody else before the shell ends us.
        while [ "$ended" = no ] && kill -0 $$; do
            sleep 1 &
            nap=$!
            wait "$nap"
        done
        exit "$fired"
    ) </dev/null >/dev/null 2>&1 &
    timer=$!
    errors=$(within $((patience * 2 + 5)) domfsfreeze "$uuid" 2>&1 >/dev/null)
    if [ $? -eq 0 ]; then
        frozen=yes pending=yes
        now; say "froze $((up - began))0"
        return
    fi
    reason=$(flat "$errors")
    case $errors in
    *"not connected"*|*"not configured"*|*"has been disabled"*|*"not found"*|*nsupported*) ;;
    # It may still be queued in the agent's channel and run when the agent wakes up.
    *) pending=yes; thaw ;;
    esac
    now; say "unfrozen $pending $reason"
}

thaw_after_cut() {
    kill "$timer" 2>/dev/null
    wait "$timer"
    [ $? -eq 7 ] && early=yes
    [ "$frozen" = yes ] || return
    thaw; [ "$pending" = no ] || thaw
    now
    if [ "$pending" = yes ]; then say "unthawed $((up - began))0 $(flat "$errors")"
    else say "thawed $((up - began))0 $early"; fi
    # Back to libvirt's default, which is to wait for the agent without limit.
    [ "$pending" = no ] && within 10 guest-agent-timeout "$uuid" --timeout -2 >/dev/null 2>&1
}

# Nobody is cut before all are frozen. A silence is a no: the timer thaws the guest at its end anyway.
meet() {
    say "waiting"
    silence_before=$silence silence=${budget%.*}
    silence=$((silence + 2))
    next
    silence=$silence_before
    [ "$line" = go ]
}

cut() {
    together=$1
    shift
    next; backup=$line
    next; record=$line
    frozen=no early=no timer=
    # A guest must not be frozen for as long as it takes another job to end.
    jobs=$(v domjobinfo "$uuid" 2>&1)
    case $jobs in
    *"Job type:"*None*) ;;
    *"Job type:"*) look; say "failed 0 busy $job"; return ;;
    *) say "failed 1 $(flat "$jobs")"; return ;;
    esac
    before=$(v domstate "$uuid" --reason 2>/dev/null)
    now; began=$up
    [ "$freeze" = yes ] && freeze_guest
    if [ "$together" = yes ] && ! meet; then
        [ -n "$timer" ] && thaw_after_cut
        say "failed 0 apart"
        return
    fi
    say "cutting"
    now; at=$up
    if [ "${backup#<domainsnapshot}" != "$backup" ]; then
        errors=$(timeout -k 5 60 virsh -c "$uri" snapshot-create "$uuid" /dev/fd/3 \
            --disk-only --no-metadata --atomic 2>&1 >/dev/null </dev/null 3<<SNAPSHOT
$backup
SNAPSHOT
        )
    elif [ -n "$record" ]; then
        errors=$(timeout -k 5 60 virsh -c "$uri" backup-begin "$uuid" /dev/fd/3 /dev/fd/4 \
            2>&1 >/dev/null </dev/null 3<<BACKUP 4<<RECORD
$backup
BACKUP
$record
RECORD
        )
    else
        errors=$(timeout -k 5 60 virsh -c "$uri" backup-begin "$uuid" /dev/fd/3 \
            2>&1 >/dev/null </dev/null 3<<BACKUP
$backup
BACKUP
        )
    fi
    status=$?
    now
    # Without libvirt's answer the job may still begin later.
    case $status,$errors in
    124,*|137,*|[1-9]*,*"nd of file"*|[1-9]*,*isconnected*|[1-9]*,*keepalive*) uncertain=yes ;;
    esac
    [ "$status" -eq 0 ] && say "cut $((up - at))0"
    reason=$(flat "$errors")
    [ -n "$timer" ] && thaw_after_cut
    if [ "$status" -eq 0 ]; then
        watch "$@" </dev/null 2>/dev/null &
        watcher=$!
        say ready
    else
        say "failed $status $reason"
    fi
}

case $mode in
clean)
    pending=$freeze
    if undo "$@"; then
        if [ "$pending" = yes ]; then say "stuck the guest may be frozen: $(flat "$errors")"
        else say clean; fi
    fi
    exit 0 ;;
esac

say "hello"
while next; do
    case $line in
    cut) cut no "$@" ;;
    "cut together") cut yes "$@" ;;
    status)
        look
        turn=0
        while [ "$job" = unknown ] && [ "$turn" -lt 20 ]; do sleep 1; look; turn=$((turn + 1)); done
        say "job $job $(flat "$(v domstate "$uuid" --reason 2>/dev/null)")" ;;
    release)
        stop_watching
        if end_job; then rm -f -- "$@" 2>/dev/null; wake; say released
        else say "stuck $(flat "$xml")"; fi ;;
    keep) keep=yes; say kept ;;
    rollback) undo "$@" && say clean; exit 0 ;;
    done) stop_watching; exit 0 ;;
    esac
done
undo "$@"
# An agent that hung carries out the freeze when it wakes up, and nobody else is left to thaw.
turn=0
while [ "$pending" = yes ] && [ "$turn" -lt 60 ]; do
    sleep 10
    thaw
    turn=$((turn + 1))
done
