#!/bin/sh
# What users get from `sluice serve`, and from llama.cpp's server beside it: the figures that
# docs/bench.md compares. Runs unattended; every step prints its tables and leaves its JSON in the
# output folder. The machine should do nothing else: a small one needs about 25 minutes for all of it
# with a model of a billion parameters.
#
#   tests/bench/serving.sh SLUICE MODEL.gguf OUTPUT-FOLDER [STEP...]
#
# Steps (default: all): chat32 shared32 alone warm gap trace
# Environment: LLAMA_SERVER (its program; without one only ours is measured), TRACE (a tau-bench file,
# for the step of that name), THREADS (2), COLD (32000, the prompt beside the warm turns).
set -u
sluice=$1
model=$2
out=$3
shift 3
steps=${*:-chat32 shared32 alone warm gap trace}
threads=${THREADS:-2}
cold=${COLD:-32000}
mkdir -p "$out" || exit 1
server=

stop() {
    [ -n "$server" ] && kill "$server" 2>/dev/null && wait "$server" 2>/dev/null
    server=
}
trap stop EXIT

# start KIND CONTEXT: a server of the kind on port 8765, with room for 32 users of CONTEXT tokens
start() {
    stop
    if [ "$1" = sluice ]; then
        "$sluice" serve "$model" --port 8765 --quiet -t "$threads" -c "$2" >"$out/server.log" 2>&1 &
    else
        "$LLAMA_SERVER" -m "$model" --port 8765 -t "$threads" -tb "$threads" -np 32 -c $(($2 * 32)) \
            --no-warmup >"$out/server.log" 2>&1 &
    fi
    server=$!
    tries=0
    until curl -sf http://127.0.0.1:8765/health >/dev/null; do
        tries=$((tries + 1))
        if [ $tries -gt 600 ] || ! kill -0 $server 2>/dev/null; then
            echo "the $1 server did not start:"
            tail -5 "$out/server.log"
            server=
            return 1
        fi
        sleep 0.2
    done
}

# measure NAME ARGUMENTS...: users on that server
measure() {
    name=$1
    shift
    echo
    echo "== $name: sluice bench $*"
    "$sluice" bench --url http://127.0.0.1:8765 "$@" --json >"$out/$name.json" || return 1
    node -e '
        const r = JSON.parse(require("fs").readFileSync(process.argv[1]));
        const n = (x, d = 1) => (x === null ? "-" : x.toFixed(d));
        for (const l of r.levels)
            console.log(`${l.users}${l.cold ? "+" : ""} users: ${n(l.total_tokens_per_second)} t/s in all, ` +
                `${n(l.user_tokens_per_second_p50)} each; first token p50 ${n(l.first_token_p50 * 1e3)} p95 ` +
                `${n(l.first_token_p95 * 1e3)} ms; gap p50 ${n(l.gap_p50 * 1e3)} p99 ` +
                `${n(l.gap_p99 * 1e3)} ms; prompts ${l.prompt_tokens}, cached ${l.cached_tokens}; ` +
                `turns ${l.later_turns}, history ${l.history_tokens}, again ` +
                `${l.recomputed_tokens} (most ${l.recomputed_most}); errors ${l.errors}`);
    ' "$out/$name.json"
}

kinds=sluice
[ -n "${LLAMA_SERVER:-}" ] && kinds="sluice llama"

for step in $steps; do
    case $step in
    chat32) # 32 users, prompts of 190 tokens, answers of 64; the engine's own rates before
        "$sluice" bench "$model" --prefill 190,512 --decode 1,32 --context 200 -t "$threads" \
            --seconds 4
        for kind in $kinds; do
            start "$kind" 1024 && measure "chat32-$kind" --users 32 --requests 32 --max-tokens 64
        done ;;
    shared32) # 32 agents that arrive together with one system prompt of 1,000 tokens
        for kind in $kinds; do
            start "$kind" 2048 && measure "shared32-$kind" --scenario shared-prefix --users 32 \
                --requests 32 --max-tokens 16
        done ;;
    alone) # one user through HTTP and in the process
        start sluice 1024 && measure alone-http --users 1 --requests 8 --max-tokens 64
        stop
        echo
        echo "== alone in the process"
        "$sluice" bench "$model" -t "$threads" -c 1024 --users 1 --requests 8 --max-tokens 64 ;;
    warm) # 200 new tokens on a cached history of 4,000, while a cold prompt is computed
        start sluice $((cold + 8192)) && measure warm --scenario warm --users 1 --requests 12 \
            --max-tokens 8 --cold "$cold" ;;
    gap) # 8 streams, while prompts of 8,000 tokens arrive
        start sluice 10240 && measure gap --users 8 --requests 8 --max-tokens 200 \
            --prompt-tokens 60 --cold 8000 ;;
    trace) # recorded agents, every turn resending its history
        start sluice 16384 && measure trace --scenario agents --trace "$TRACE" --users 32 \
            --requests "${TRACE_REQUESTS:-96}" --max-tokens 16 --think 0.5 ;;
    *)
        echo "there is no step '$step'"
        exit 2 ;;
    esac
    stop
done
