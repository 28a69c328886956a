# Runs vzdump so that it can be recognised later, and looks after one that was left behind.
#
#   run COMMAND…                         says who it is, waits for "go" on its input, becomes COMMAND
#   end BOOT PID START SECONDS VMID CONF ends it if it still runs, and says how it left the guest
#
# Answers are lines that begin with "vmconsole-vzdump". $$ stays the same when sh becomes COMMAND.

set -u

started() { # PID: clock ticks since boot, field 22 of proc(5) stat; behind the name, which may hold anything
    sed -n 's/^.*) //p' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

lives() { # PID START
    [ "$(started "$1")" = "$2" ] || return 1
    case $(sed -n 's/^.*) //p' "/proc/$1/stat" 2>/dev/null) in Z* | X*) return 1 ;; esac
}

dumping() { # VMID: does any vzdump work on this guest? Its worker is called "task UPID:NODE:…:vzdump:VMID:USER:".
    for line in /proc/[0-9]*/cmdline; do
        words=$(tr '\0' ' ' <"$line" 2>/dev/null) || continue
        case $words in
        *" vmconsole end "*) ;;
        "task UPID:"*":vzdump:$1:"* | "task UPID:"*":vzdump::"*) return 0 ;;
        *vzdump*" $1 "*) return 0 ;;
        esac
    done
    return 1
}

boot=$(cat /proc/sys/kernel/random/boot_id)

case $1 in
run)
    shift
    echo "vmconsole-vzdump $boot $$ $(started $$)"
    IFS= read -r answer || exit 75
    [ "$answer" = go ] || exit 75
    exec "$@" </dev/null
    ;;
end)
    left=$5
    if [ "$2" = "$boot" ] && lives "$3" "$4"; then
        kill -TERM "$3"
        while lives "$3" "$4" && [ "$left" -gt 0 ]; do
            sleep 1
            left=$((left - 1))
        done
        if lives "$3" "$4"; then
            echo "vmconsole-vzdump running"
            exit 0
        fi
    fi
    while dumping "$6" && [ "$left" -gt 0 ]; do
        sleep 1
        left=$((left - 1))
    done
    if dumping "$6"; then
        echo "vmconsole-vzdump running"
    elif [ ! -f "$7" ]; then
        echo "vmconsole-vzdump ended"
    else
        lock=$(sed -n '/^\[/q; s/^lock:[[:space:]]*//p' "$7")
        sum=$(sed '1,/^\[/{/^lock:/d}' "$7" | sha1sum | cut -d ' ' -f 1)
        echo "vmconsole-vzdump ended $sum $lock"
    fi
    ;;
esac
