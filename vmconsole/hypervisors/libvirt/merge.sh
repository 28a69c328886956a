# Merges the overlays of a backup back into the images they stand on, while the guest runs.
#
# $1 uri  $2 uuid, then for each disk: its target, its overlay's path
# Says per disk "TARGET WORD…": merged, unused (nothing refers to it; removed), off (the guest is
# off and needs it), left WHY; or once "gone" when libvirt does not know the guest any more.
# An overlay is removed only when neither the running nor the stored definition names it.
# Idempotent. Status 0 when no overlay is left.
LC_ALL=C; export LC_ALL
trap '' HUP PIPE
uri=$1 uuid=$2
shift 2
left=0

v() { timeout -k 5 60 virsh -c "$uri" "$@" </dev/null; }
flat() { printf '%s' "$1" | tr '\n\r\t' '   ' | head -c 400; }

# Whether a definition of the guest names the overlay. Its file name is unique, so that it alone will do.
named() {
    live=$(v dumpxml "$uuid" 2>&1) && stored=$(v dumpxml "$uuid" --inactive 2>&1) || return 2
    case $live$stored in *"${overlay##*/}"*) return 0 ;; esac
    return 1
}

on_top() { v domblklist "$uuid" | awk -v t="$target" '$1 == t { print }' | grep -qF -- "/${overlay##*/}"; }

commit() {
    # A commit that died half way; the guest stays on the overlay when it is ended.
    case $(v blockjob "$uuid" "$target" --info 2>/dev/null) in
    *Commit*) v blockjob "$uuid" "$target" --abort >/dev/null 2>&1 ;;
    esac
    if on_top; then
        virsh -c "$uri" blockcommit "$uuid" "$target" --shallow --active --pivot --wait </dev/null 2>&1 >/dev/null
    else
        virsh -c "$uri" blockcommit "$uuid" "$target" --shallow --top "$overlay" --wait </dev/null 2>&1 >/dev/null
    fi
}

settle() {
    named
    case $? in
    1) rm -f -- "$overlay"; echo "$target unused"; return ;;
    2) left=1
       case $live$stored in
       *"omain not found"*|*"failed to get domain"*) echo gone; exit 1 ;;
       *) echo "$target left $(flat "$live$stored")" ;;
       esac
       return ;;
    esac
    case $(v domstate "$uuid") in
    running*|paused*|idle*) ;;
    "shut off"*|crashed*) left=1; echo "$target off"; return ;;
    *) left=1; echo "$target left the guest is on its way up or down"; return ;;
    esac
    errors=$(commit)
    if named; then left=1; echo "$target left $(flat "${errors:-it is still in use}")"
    else rm -f -- "$overlay"; echo "$target merged"; fi
}

while [ $# -ge 2 ]; do
    target=$1 overlay=$2
    shift 2
    settle
done
exit "$left"
