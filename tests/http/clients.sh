#!/bin/sh
# The official clients against `sluice serve`: installs the pinned packages of package.json below the
# build folder and runs *.mjs with the server's address. Exit 77 (skipped) without node, npm or network.
#
#   tests/http/clients.sh SLUICE-PROGRAM BUILD-FOLDER
set -u
sluice=$1
place=$2/clients
here=$(dirname "$0")
command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 || {
    echo "SKIPPED: the official clients need node and npm"
    exit 77
}
mkdir -p "$place" || exit 1
cp "$here"/package.json "$here"/*.mjs "$place/" || exit 1
(cd "$place" && npm install --no-audit --no-fund --silent >npm.log 2>&1) || {
    echo "SKIPPED: the official clients could not be installed (no network?)"
    exit 77
}
"$sluice" serve --port 0 --quiet --alias gpt-4o >"$place/address" 2>"$place/server.log" &
server=$!
trap 'kill $server 2>/dev/null' EXIT
url=
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    url=$(sed -n 's/^listening on //p' "$place/address")
    [ -n "$url" ] && break
    sleep 0.5
done
[ -n "$url" ] || {
    cat "$place/server.log"
    exit 1
}
failed=0
for script in "$place"/*.mjs; do
    node "$script" "$url" || failed=1
done
exit $failed
