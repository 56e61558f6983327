#!/bin/sh
# What users get from `sluice serve`, and from llama.cpp's server beside it: the figures that
# docs/bench.md compares. Runs unattended; every step prints its tables and leaves its JSON in the
# output folder, and the last one prints all of them as one table beside their targets. The machine
# should do nothing else: a small one needs about 25 minutes for all of it with a model of a billion
# parameters (on two Zen 3 cores: chat32 6, shared32 1, alone 2, warm 8, gap 3, trace 5).
#
#   tests/bench/serving.sh SLUICE MODEL.gguf OUTPUT-FOLDER [STEP...]
#
# Steps (default: all): chat32 shared32 alone warm gap trace streams sched table
# Environment: LLAMA_SERVER (its program; without one only ours is measured), TRACE (a tau-bench file,
# for the step of that name), SMALL (a small model, for streams), BENCH_SCHED and BENCH_ALONE (the
# programs of those names; without the latter, one user's two ways are compared by two runs only),
# THREADS (2), PORT (8765), COLD (32000, the prompt beside the warm turns), and how much is asked:
# CHAT_TOKENS (64), WARM_REQUESTS (12), GAP_COLD (8000), TRACE_REQUESTS (96), ALONE_REQUESTS (8).
set -u
sluice=$1
model=$2
out=$3
shift 3
steps=${*:-chat32 shared32 alone warm gap trace streams sched table}
threads=${THREADS:-2}
port=${PORT:-8765}
cold=${COLD:-32000}
mkdir -p "$out" || exit 1
server=

stop() {
    [ -n "$server" ] && kill "$server" 2>/dev/null && wait "$server" 2>/dev/null
    server=
}
trap stop EXIT
trap 'exit 1' HUP INT TERM

# start KIND CONTEXT [MODEL]: a server of the kind on its port, with room for 32 users of CONTEXT tokens
start() {
    stop
    if [ "$1" = sluice ]; then
        "$sluice" serve "${3:-$model}" --port "$port" --quiet -t "$threads" -c "$2" \
            >"$out/server.log" 2>&1 &
    else
        "$LLAMA_SERVER" -m "$model" --port "$port" -t "$threads" -tb "$threads" -np 32 -c $(($2 * 32)) \
            --no-warmup >"$out/server.log" 2>&1 &
    fi
    server=$!
    tries=0
    until curl -sf http://127.0.0.1:$port/health >/dev/null; do
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

# show FILE: its levels, a line each
show() {
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
    ' "$1"
}

# measure NAME ARGUMENTS...: users on that server; the same texts for every server, all of which are fresh
measure() {
    name=$1
    shift
    echo
    echo "== $name: sluice bench $*"
    "$sluice" bench --url http://127.0.0.1:$port --seed 1 "$@" --json >"$out/$name.json" &&
        show "$out/$name.json"
}

# rates before|after: what the engine itself does in this window
rates() {
    "$sluice" bench "$model" --prefill 190,512 --decode 1,8,32 --context 200 -t "$threads" \
        --seconds 2 --json >"$out/rates-$1.json"
}

# All that was measured into the folder, beside the targets.
table() {
    node -e '
        const fs = require("fs"), path = require("path");
        const read = (name) => {
            try { return JSON.parse(fs.readFileSync(path.join(process.argv[1], name + ".json"))); }
            catch { return null; }
        };
        const ms = (s) => (s === null ? "-" : s < 10 ? `${(s * 1e3).toFixed(s < 0.1 ? 2 : 0)} ms` : `${s.toFixed(1)} s`);
        const pc = (x) => `${(100 * x).toFixed(1)} %`;
        const row = (...cells) => console.log(`| ${cells.join(" | ")} |`);
        const first = (r) => r && r.levels[0];
        row("", "sluice", "llama.cpp", "asked"), row("---", "---", "---", "---");
        const rates = [read("rates-before"), read("rates-after")].filter((x) => x);
        const chat = first(read("chat32-sluice")), peer = first(read("chat32-llama"));
        if (rates.length && chat) {
            const of = (r, kind, size) => r.results.find((x) => x.kind === kind && x.size === size).tokens_per_second;
            const rate = (kind, size) => rates.length / rates.reduce((sum, r) => sum + 1 / of(r, kind, size), 0);
            const prefill = rate("prefill", 190), decode = rate("decode", 32);
            const prompts = chat.prompt_tokens / prefill;
            const allowed = chat.output_tokens / (prompts + chat.output_tokens / decode);
            const all = (kind, size) => rates.map((r) => of(r, kind, size).toFixed(1)).join(" and ");
            row("own rates, before and after", `prefill 190 ${all("prefill", 190)}, decode 32 ${all("decode", 32)} t/s`, "", "");
            row("32 users, t/s in all", `${chat.total_tokens_per_second.toFixed(1)} (${pc(chat.total_tokens_per_second / allowed)} of ${allowed.toFixed(1)})`,
                peer ? `${peer.total_tokens_per_second.toFixed(1)} (${(chat.total_tokens_per_second / peer.total_tokens_per_second).toFixed(2)}x)` : "-", "80 %; 2.5x");
            row("first token, median", `${ms(chat.first_token_p50)} (${pc(chat.first_token_p50 / prompts)} of ${ms(prompts)} for all prompts)`,
                peer ? `${ms(peer.first_token_p50)} (${(peer.first_token_p50 / chat.first_token_p50).toFixed(2)}x)` : "-", "70 %; 2.5x");
            row("gap, median and p99", `${ms(chat.gap_p50)}, ${ms(chat.gap_p99)}`, peer ? `${ms(peer.gap_p50)}, ${ms(peer.gap_p99)}` : "-", "");
            row("errors", `${chat.errors} of ${chat.requests}`, peer ? `${peer.errors} of ${peer.requests}` : "-", "0");
        }
        const shared = first(read("shared32-sluice"));
        if (shared) {
            const one = shared.prompt_tokens / shared.requests, others = shared.requests - 1;
            const again = (shared.prompt_tokens - shared.cached_tokens - one) / others;
            row("32 agents with one system prompt: computed for each after the first", `${again.toFixed(1)} tokens of ${one.toFixed(0)}`, "", "the own 60 or so, and 5 %");
        }
        const http = first(read("alone-http")), own = first(read("alone-process"));
        if (http && own) {
            const rate = http.user_tokens_per_second_p50 / own.user_tokens_per_second_p50;
            row("one user through HTTP, against in-process: rate", `${http.user_tokens_per_second_p50.toFixed(2)} and ${own.user_tokens_per_second_p50.toFixed(2)} t/s (${pc(rate - 1)})`, "", "-3 %");
            row("the same: first token", `${ms(http.first_token_p50)} and ${ms(own.first_token_p50)}`, "", "5 ms more");
        }
        const pair = (name, what, key, asked) => {
            const r = read(name);
            if (!r || r.levels.length < 2)
                return;
            const [a, b] = r.levels;
            row(what, `${ms(a[key])} alone, ${ms(b[key])} (${(b[key] / a[key]).toFixed(2)}x)`, "", asked);
        };
        pair("warm", "warm turn beside a cold prompt: first token p95", "first_token_p95", "3x");
        /* Gaps once all streams run: while they begin, their own prompts are in the way. */
        const running = (level, share) => {
            const begun = Math.max(...level.samples.map((x) => x.start + x.first_token)) + 0.5, gaps = [];
            for (const x of level.samples) {
                let at = x.start + x.first_token;
                for (const gap of x.gaps) {
                    if (at > begun)
                        gaps.push(gap);
                    at += gap;
                }
            }
            return gaps.sort((a, b) => a - b)[Math.floor(share * (gaps.length - 1))];
        };
        const gap = read("gap");
        for (const [share, name] of gap && gap.levels.length > 1 ? [[0.99, "p99"], [0.5, "median"]] : []) {
            const [a, b] = gap.levels.map((level) => running(level, share));
            row(`8 streams while long prompts arrive: gap, ${name}`, `${ms(a)} alone, ${ms(b)} (${(b / a).toFixed(2)}x)`, "", share > 0.5 ? "2x" : "");
        }
        const trace = first(read("trace"));
        if (trace)
            row("recorded agents: history computed again per turn, and the most", `${(trace.recomputed_tokens / trace.later_turns).toFixed(1)}, ${trace.recomputed_most} tokens`, "", "a page (32)");
        const streams = first(read("streams"));
        if (streams)
            row(`${streams.users} open streams on the small model`, `${streams.total_tokens_per_second.toFixed(0)} t/s, ${streams.errors} errors, ${streams.disagreements} counts that disagree`, "", "0 errors");
    ' "$out"
}

kinds=sluice
[ -n "${LLAMA_SERVER:-}" ] && kinds="sluice llama"

for step in $steps; do
    case $step in
    chat32) # 32 users, prompts of 190 tokens, answers of 64; the engine's own rates before and after
        rates before
        for kind in $kinds; do
            start "$kind" 1024 && measure "chat32-$kind" --users 32 --requests 32 \
                --max-tokens "${CHAT_TOKENS:-64}"
            stop
            [ "$kind" = sluice ] && rates after
        done ;;
    shared32) # 32 agents that arrive together with one system prompt of 1,000 tokens
        start sluice 2048 && measure shared32-sluice --scenario shared-prefix --users 32 \
            --requests 32 --max-tokens 16 ;;
    alone) # one user through HTTP and in the process
        start sluice 1024 && measure alone-http --users 1 --requests "${ALONE_REQUESTS:-8}" \
            --max-tokens 64
        stop
        echo
        echo "== alone in the process"
        "$sluice" bench "$model" -t "$threads" -c 1024 --users 1 --seed 1 \
            --requests "${ALONE_REQUESTS:-8}" --max-tokens 64 --json >"$out/alone-process.json" &&
            show "$out/alone-process.json"
        [ -n "${BENCH_ALONE:-}" ] && "$BENCH_ALONE" "$model" 32 20 16 "$threads" |
            tee "$out/alone-turns.txt" ;;
    warm) # 200 new tokens on a cached history of 4,000, while a cold prompt is computed
        start sluice $((cold + 8192)) && measure warm --scenario warm --users 1 \
            --requests "${WARM_REQUESTS:-12}" --max-tokens 8 --cold "$cold" ;;
    gap) # 8 streams, while prompts of 8,000 tokens arrive
        start sluice 10240 && measure gap --users 8 --requests 8 --max-tokens 200 \
            --prompt-tokens 60 --cold "${GAP_COLD:-8000}" ;;
    trace) # recorded agents, every turn resending its history
        start sluice 16384 && measure trace --scenario agents --trace "${TRACE:?a tau-bench file}" \
            --users 32 --requests "${TRACE_REQUESTS:-96}" --max-tokens 16 --think 0.5 ;;
    streams) # 1,000 streams at once, on a small model
        start sluice 1024 "${SMALL:?a small model}" && measure streams --users 1000 \
            --requests 1000 --max-tokens 32 --prompt-tokens 30 ;;
    sched) # the scheduler alone, 512 sequences
        "${BENCH_SCHED:?the program bench_sched}" | tee "$out/sched.txt" ;;
    table)
        echo
        table ;;
    *)
        echo "there is no step '$step'"
        exit 2 ;;
    esac
    stop
done
