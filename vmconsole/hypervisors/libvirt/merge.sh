# Merges the overlays of a backup back into the images they stand on, while the guest runs.
#
# $1 uri  $2 uuid, then for each disk: its target, its overlay's path
# Says per disk "TARGET WORD…": merged, unused (nothing refers to it; removed), off (the guest is
# off and needs it), left WHY; or once "gone" when libvirt does not know the guest any more.
# An overlay is removed only when neither the running nor the stored definition names it, and no
# QEMU has it open.
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

# Remove the overlay unless a QEMU has it open: a snapshot that libvirt is still making is in no
# definition yet. Under another name nobody can open it any more, and the lock tells who has.
discard() {
    [ -e "$overlay" ] || return 0
    mv -- "$overlay" "$overlay.gone" || return 1
    if why=$(qemu-img info -f qcow2 -- "$overlay.gone" 2>&1 >/dev/null); then rm -f -- "$overlay.gone"; return; fi
    case $why in
    *"not in qcow2 format"*) rm -f -- "$overlay.gone" ;;
    *) mv -- "$overlay.gone" "$overlay"; return 1 ;;
    esac
}

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
    if [ ! -e "$overlay" ] && [ -e "$overlay.gone" ]; then mv -- "$overlay.gone" "$overlay"; fi
    named
    case $? in
    1) if discard; then echo "$target unused"
       else left=1; echo "$target left its overlay is being put in place"; fi
       return ;;
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
    named
    if [ $? -eq 1 ] && discard; then echo "$target merged"
    else left=1; echo "$target left $(flat "${errors:-its overlay is still in use}")"; fi
}

while [ $# -ge 2 ]; do
    target=$1 overlay=$2
    shift 2
    settle
done
exit "$left"
