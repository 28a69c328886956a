# Connects our input and output to the unix socket $1, for hosts whose sshd does not forward to sockets.
# The first line says how it went: `ok`, or `missing`, `denied`, `nosocket`, `refused`, `notool`.
path=$1
if [ ! -S "$path" ]; then
    if [ -e "$path" ]; then echo nosocket; exit 1; fi
    folder=$path
    while folder=$(dirname -- "$folder"); [ ! -d "$folder" ] && [ "$folder" != / ] && [ "$folder" != . ]; do :; done
    if [ -x "$folder" ]; then echo missing; else echo denied; fi
    exit 1
fi
if [ ! -w "$path" ]; then echo denied; exit 1; fi
if [ "${2:-}" = probe ]; then echo ok; exit 0; fi
if command -v python3 >/dev/null 2>&1; then
    exec python3 -c '
import os, select, socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except PermissionError:
    print("denied"); sys.exit(1)
except OSError:
    print("refused"); sys.exit(1)
def put(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
put(b"ok\n")
waiting = [0, s]
while s in waiting:
    for ready in select.select(waiting, [], [])[0]:
        if ready == 0:
            data = os.read(0, 262144)
            if data:
                s.sendall(data)
            else:
                waiting.remove(0)
                s.shutdown(socket.SHUT_WR)
        else:
            data = s.recv(262144)
            if not data:
                sys.exit(0)
            put(data)
' "$path"
fi
case $path in
*[!A-Za-z0-9/._@+=-]*) ;;
*) if command -v socat >/dev/null 2>&1; then
    echo ok
    exec socat -b 262144 - "UNIX-CONNECT:$path"
fi ;;
esac
if nc -h 2>&1 | grep -q -- '-[A-Za-z0-9]*U'; then
    echo ok
    exec nc -U -- "$path"
fi
echo notool
exit 1
