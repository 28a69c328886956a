"""pvesh get|create|set|delete PATH [--NAME VALUE …] [--output-format json]"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from pve.tools.says import Died, settings, words

_VERBS = {"get": "GET", "create": "POST", "set": "PUT", "delete": "DELETE"}
_OURS = {"output-format", "noproxy", "human-readable", "quiet", "noborder", "noheader"}


def main(argv: Sequence[str]) -> int:
    given = words(argv, ["noproxy", "quiet", "noborder", "noheader"])
    if len(given.plain) != 2 or given.plain[0] not in _VERBS:
        raise Died(
            "ERROR: unknown command 'pvesh " + " ".join(argv) + "'\nUSAGE: pvesh <COMMAND> [ARGS] [OPTIONS]"
        )
    verb, path = given.plain
    values = {name: found for name, found in given.values.items() if name not in _OURS}
    data = request(_VERBS[verb], "/" + path.strip("/"), values)
    if isinstance(data, str) and data.startswith("UPID:") and verb != "get":
        _await(data)
    if data is not None:
        show(data)
    return 0


def show(data: Any) -> None:
    print(json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def request(method: str, path: str, values: Mapping[str, Sequence[str] | str] | None = None) -> Any:
    """What the API answers. Raises Died in the words of pvesh."""
    known = settings()
    where = urlsplit(known["url"])
    context = ssl.create_default_context(cafile=known["ca"])
    link = http.client.HTTPSConnection(str(where.hostname), where.port, timeout=60, context=context)
    text = urlencode(values or {}, doseq=True)
    target = quote(f"/api2/json{path}")
    headers = {
        "Cookie": f"PVEAuthCookie={known['ticket']}", "CSRFPreventionToken": known["csrf"],
        "X-Rig-Node": known["node"], "Content-Type": "application/x-www-form-urlencoded",
    }  # fmt: skip
    if method in {"GET", "DELETE"}:
        link.request(method, f"{target}?{text}" if text else target, headers=headers)
    else:
        link.request(method, target, body=text, headers=headers)
    answer = link.getresponse()
    raw = answer.read()
    try:
        body = json.loads(raw or b"{}")
    except ValueError:
        body = {"message": raw.decode("utf-8", "replace")}
    if answer.status == 200:
        return body.get("data")
    message = str(body.get("message") or answer.reason).strip()
    if answer.status == 595:
        raise Died(f"ssh: connect to host {path.split('/')[2]} port 22: No route to host")
    if answer.status == 404 or answer.status == 501:
        verb = next(name for name, sent in _VERBS.items() if sent == method)
        raise Died(f"No '{verb}' handler defined for '{path}'")
    if answer.status == 400:
        fields = "".join(f"\n{name}: {what}" for name, what in sorted((body.get("errors") or {}).items()))
        raise Died(f"400 {message}{fields}\npvesh <api_path> [OPTIONS] [FORMAT_OPTIONS]")
    if answer.status == 403:
        raise Died(f"403 {message}" if not message.startswith("403") else message)
    raise Died(message, 2 if "does not exist" in message else 255)


def _await(upid: str) -> None:
    """A command line's task ends before its command does, with the log on stdout."""
    node = upid.split(":")[1]
    where = f"/nodes/{node}/tasks/{upid}"
    while (status := request("GET", f"{where}/status"))["status"] == "running":
        time.sleep(0.05)
    for line in request("GET", f"{where}/log"):
        print(line["t"])
    sys.stdout.flush()
    if status.get("exitstatus", "OK") != "OK":
        raise Died(str(status["exitstatus"]))
