#!/usr/bin/env bash
# Everything that has to run on a GPU: see `usage`. Needs the executables that
# `cargo xtask gpu-check --pack-only` packs, and this repository; Python with torch and transformers
# for the peers.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2

usage() {
    cat <<'USAGE'
bench/gpu/check.sh PACK [options] [-- options of `xtask bench-peers`]

PACK is the folder that `cargo xtask gpu-check --pack-only` makes, or its archive.

Runs what a GPU has to pass, and measures it. A step that fails does not stop the others; the last
lines say how each ended, and the exit status is 0 if none failed.

Steps:
  environment  the GPU, its driver, NVRTC, Python's packages
  tests        the test executables, on the GPU in place of the emulator
  generate     the embedded model on the GPU: in f32 the CPU's text, also compiled; in f16 and bf16
  sanitizer    compute-sanitizer's memcheck and racecheck over the conformance suite
  layers       bench layer beside transformers and torch: layers.md, layers.json
  models       generation beside transformers, Qwen1.5-MoE-A2.7B's shape: models.md, models.json
  targets      which targets the two records meet; a missed target is no failure

Options:
  --only STEPS     these steps alone, separated by commas
  --out FOLDER     for logs, records and the summary; target/gpu-check/out by default
  --quick          fewer shapes, tokens, layers and ways to compile
  --limit SECONDS  the most that a step may take; 540 by default
  --device N       the number of the GPU; 0 by default
  --python FILE    with torch and transformers; python3 by default
  --model FOLDER   a checkpoint for `models`, in place of one that is made and removed
  --scratch FOLDER where that is made; by default /dev/shm if it is large enough, else the temporary folder
  --filter NAME    only tests whose name contains this; `sanitizer` runs `conformance::` by default
USAGE
}

quick='' limit=540 device=0 python=python3 only='' out='' model='' scratch='' filter=''
bench=() pack=''
while [ $# -gt 0 ]; do
    case $1 in
    --only | --out | --limit | --device | --python | --model | --scratch | --filter)
        if [ $# -lt 2 ]; then
            echo "error: $1 needs a value" >&2
            exit 2
        fi
        printf -v "${1#--}" %s "$2"
        shift
        ;;
    --quick) quick=1 ;;
    --help | -h) usage && exit ;;
    --)
        shift
        bench=("$@")
        break
        ;;
    -*)
        echo "error: unknown option $1; --help lists them" >&2
        exit 2
        ;;
    *) pack=$1 ;;
    esac
    shift
done
temporary=$(mktemp -d) || exit 2
trap 'rm -rf "$temporary"' EXIT
if [ -f "$pack" ]; then
    mkdir "$temporary/pack"
    tar -xzf "$pack" --strip-components 1 -C "$temporary/pack" || exit 2
    pack=$temporary/pack
fi
if [ ! -f "$pack/pack.json" ]; then
    echo "error: \`$pack\` was not made by \`cargo xtask gpu-check --pack-only\`" >&2
    exit 2
fi
pack=$(cd "$pack" && pwd)
out=${out:-target/gpu-check/out}
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
all=(environment tests generate sanitizer layers models targets)
read -r -a steps <<<"${only//,/ }"
[ ${#steps[@]} -gt 0 ] || steps=("${all[@]}")
for step in "${steps[@]}"; do
    if [[ " ${all[*]} " != *" $step "* ]]; then
        echo "error: no step \`$step\`; there are ${all[*]}" >&2
        exit 2
    fi
done

# All output goes to the log too.
exec > >(tee -a "$out/check.log") 2>&1
log_writer=$!
# shellcheck disable=SC2329 # by the trap
finish() {
    rm -rf "$temporary"
    exec >&- 2>&-
    wait "$log_writer"
}
trap finish EXIT

moexperts=$pack/moexperts
reason=''
export MOEXPERTS_TESTDATA=$PWD/testdata PYTHONUNBUFFERED=1

# Skips a step.
skip() {
    reason=$1
    return 77
}

# Fails a step.
fail() {
    reason=$1
    return 1
}

# Seconds that a step has left, at least one.
left() {
    local seconds=$((deadline - SECONDS))
    echo $((seconds > 1 ? seconds : 1))
}

# Runs a command no longer than the step may take.
bounded() {
    timeout --kill-after=10 "$(left)" "$@"
}

# Why a command failed, from its status and the file of its output.
why() {
    case $1 in
    124 | 137) echo 'not finished in its time' ;;
    101) sed -n 's/^test \(.*\) \.\.\. FAILED$/the first \1/p' "$2" | head -n1 ;;
    *) grep -m1 '^error' "$2" || tail -n1 "$2" ;;
    esac
}

# The program finds NVRTC in a toolkit or where the system has it; a Python package may have it too.
find_nvrtc() {
    [ -z "${MOEXPERTS_NVRTC:-}" ] || return 0
    if ldconfig -p 2>/dev/null | grep -q libnvrtc.so ||
        compgen -G '/usr/local/cuda/lib64/libnvrtc.so*' >/dev/null; then
        return 0
    fi
    local file
    file=$("$python" - <<'PYTHON' 2>/dev/null
import glob, sysconfig
packages = sysconfig.get_path("purelib")
files = glob.glob(f"{packages}/nvidia/*/lib/libnvrtc.so.1*")
print(next(iter(file for file in sorted(files) if ".alt." not in file), ""))
PYTHON
    )
    if [ -n "$file" ]; then
        echo "MOEXPERTS_NVRTC=$file"
        export MOEXPERTS_NVRTC=$file
    fi
}

run_environment() {
    cat "$pack/pack.json"
    uname -srm
    nvidia-smi || echo 'no nvidia-smi'
    "$python" bench/peers/versions.py torch transformers triton accelerate \
        nvidia-cublas nvidia-cuda-nvrtc nvidia-cuda-runtime || echo "no $python"
    compute-sanitizer --version 2>/dev/null || echo 'no compute-sanitizer in PATH'
    df -h /dev/shm "${TMPDIR:-/tmp}"
    bounded "$moexperts" inspect --device "cuda:$device" 2>&1 | tee "$temporary/inspect"
    local status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || fail "$(why "$status" "$temporary/inspect")"
}

run_tests() {
    local failed=() passed=0 executable name status count chosen
    for executable in "$pack"/test-*; do
        name=${executable##*/test-}
        echo "-- $name"
        chosen=()
        [ ! -f "$pack/filter-$name" ] || chosen=("$(<"$pack/filter-$name")")
        if [ -n "$filter" ]; then
            # Both filters have to match; the executable itself would run what matches either.
            mapfile -t chosen < <("$executable" --list --skip compiles:: "${chosen[@]}" 2>/dev/null |
                sed -n 's/: test$//p' | grep -F -- "$filter")
            [ ${#chosen[@]} -gt 0 ] || continue
            chosen+=(--exact)
        fi
        # One that hangs leaves time for the others. `compiles` needs no GPU and takes minutes.
        MOEXPERTS_TEST_GPU=$device \
            bounded timeout $((limit * 2 / 3)) "$executable" --skip compiles:: "${chosen[@]}" 2>&1 |
            tee "$temporary/test"
        status=${PIPESTATUS[0]}
        count=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$temporary/test")
        passed=$((passed + ${count:-0}))
        case $status in
        0) ;;
        101)
            count=$(sed -n 's/^test result: .*; \([0-9]*\) failed.*/\1/p' "$temporary/test")
            failed+=("$name: $count failed, $(why 101 "$temporary/test")")
            ;;
        *) failed+=("$name: $(why "$status" "$temporary/test")") ;;
        esac
    done
    reason="$passed tests"
    [ ${#failed[@]} = 0 ] || fail "$passed passed; $(printf '%s; ' "${failed[@]}")"
}

# The text that the embedded model writes: where, dtype, more options.
generate() {
    local where=$1 dtype=$2
    shift 2
    bounded "$moexperts" generate --device "$where" --dtype "$dtype" --max-new-tokens 64 \
        --do-sample=false --ignore-eos "$@" 'The borrow checker' 2>"$temporary/generate"
}

run_generate() {
    local gpu=cuda:$device failed=() expected dtype backend mode got status
    expected=$(generate cpu f32) || { fail 'the CPU does not generate'; return; }
    echo "$expected"
    for dtype in f32 f16 bf16; do
        for backend in eager batched_mm grouped_mm; do
            for mode in none reduce-overhead; do
                local words=(--experts-implementation "$backend")
                [ $mode = none ] || words+=(--compile "$mode")
                got=$(generate "$gpu" $dtype "${words[@]}")
                status=$?
                echo "-- $dtype, $backend, compile $mode"
                cat "$temporary/generate"
                if [ $status != 0 ]; then
                    failed+=("$dtype $backend $mode: $(why $status "$temporary/generate")")
                elif [ "$got" = "$expected" ]; then
                    echo 'as on the CPU in f32'
                elif [ $dtype = f32 ]; then
                    failed+=("$dtype $backend $mode: not the CPU's text: $got")
                else
                    echo "not the CPU's text in f32: $got"
                fi
            done
        done
    done
    [ ${#failed[@]} = 0 ] || fail "$(printf '%s; ' "${failed[@]:0:3}")${#failed[@]} of 18 failed"
}

run_sanitizer() {
    local sanitizer suite tools=(memcheck racecheck) tool status failed=()
    sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    [ -x "$sanitizer" ] || { skip 'no compute-sanitizer'; return; }
    suite=$pack/test-moexperts-cuda.it
    [ -x "$suite" ] || { fail "no $suite"; return; }
    local end=$deadline index=0
    for tool in "${tools[@]}"; do
        echo "-- $tool"
        # Each has an equal share of the time.
        deadline=$((SECONDS + (end - SECONDS) / (${#tools[@]} - index)))
        index=$((index + 1))
        MOEXPERTS_TEST_GPU=$device bounded "$sanitizer" --tool "$tool" --error-exitcode 9 \
            --print-limit 20 "$suite" --test-threads 1 "${filter:-conformance::}" 2>&1 |
            tee "$temporary/sanitizer"
        status=${PIPESTATUS[0]}
        if grep -q 'Device not supported' "$temporary/sanitizer"; then
            skip 'compute-sanitizer says: Device not supported'
            return
        fi
        case $status in
        0) ;;
        9) failed+=("$tool: $(grep -m1 'ERROR SUMMARY' "$temporary/sanitizer")") ;;
        124 | 137)
            if grep -q '^========= [A-Z].*\(error\|hazard\|Invalid\|Race\)' "$temporary/sanitizer"; then
                failed+=("$tool: errors, and not finished in its time")
            else
                failed+=("$tool: not finished in its time; no error until then")
            fi
            ;;
        *) failed+=("$tool: $(why "$status" "$temporary/sanitizer")") ;;
        esac
    done
    [ ${#failed[@]} = 0 ] || fail "$(printf '%s; ' "${failed[@]}")"
}

# Measures and writes a record.
bench_peers() {
    local name=$1
    shift
    # Its budget ends it before `bounded` does.
    bounded "$pack/xtask" bench-peers "$name" --device "cuda:$device" --pack "$pack" \
        --python "$(command -v "$python" || echo "$python")" --record "$name" \
        --record-folder "$out" --budget $(($(left) * 95 / 100)) "$@" 2>&1 | tee "$temporary/bench"
    local status=${PIPESTATUS[0]}
    if [ "$status" != 0 ]; then
        reason=$(sed -n 's/^== skipped: \(moexperts\)/\1/p' "$temporary/bench" | head -n1)
        fail "${reason:-$(why "$status" "$temporary/bench")}"
        return
    fi
    # A missing peer is no failure of this project, but the summary names it.
    reason=$(sed -n 's/^== \(skipped: transformers[:,]\)/\1/p' "$temporary/bench" | head -n1)
}

# Adds an option to `words`, unless the caller gave it.
default() {
    [[ " ${bench[*]} " == *" $1 "* ]] || words+=("$@")
}

run_layers() {
    local words=()
    if [ -n "$quick" ]; then
        default --shapes qwen3-30b,mixtral
        default --tokens 1,8,64,1024,8192
        default --time 0.1
        default --skip compile
    fi
    bench_peers layers "${words[@]}" "${bench[@]}"
}

# Prints a folder with enough free space for a checkpoint of the given size in GiB.
free_folder() {
    local folder free
    for folder in ${scratch:+"$scratch"} /dev/shm "${TMPDIR:-/tmp}"; do
        free=$(df --output=avail -k "$folder" 2>/dev/null | tail -n1)
        if [ -n "$free" ] && [ "$free" -gt $(($1 * 1024 * 1024)) ]; then
            echo "$folder"
            return
        fi
    done
    return 1
}

run_models() {
    local layers=24 vocabulary=151936 gib=32 made='' status
    local words=()
    if [ -n "$quick" ]; then
        layers=4 vocabulary=32000 gib=8
        default --generations 1x16x16,4x128x16
        default --skip compile
    else
        default --generations 1x16x16,1x16x64,1x128x16,1x128x64,4x128x16,4x128x64
    fi
    local checkpoint=$model
    if [ -z "$checkpoint" ]; then
        "$python" -c 'import torch, transformers' 2>/dev/null ||
            { skip "$python has no torch or no transformers, which make the checkpoint"; return; }
        made=$(free_folder $gib) || { skip "no folder has $gib GiB free for a checkpoint"; return; }
        made=$(mktemp -d "$made/moexperts-gpu-check.XXXXXX")
        checkpoint=$made/qwen1.5-moe-${layers}l
        echo "-- making $checkpoint"
        bounded "$python" bench/peers/make_checkpoint.py qwen2_moe $layers "$checkpoint" \
            --vocabulary $vocabulary --device "cuda:$device" 2>&1 | tee "$temporary/checkpoint"
        status=${PIPESTATUS[0]}
        if [ "$status" != 0 ]; then
            rm -rf "$made"
            fail "the checkpoint: $(why "$status" "$temporary/checkpoint")"
            return
        fi
    fi
    bench_peers models --model "$checkpoint" "${words[@]}" "${bench[@]}"
    status=$?
    [ -z "$made" ] || rm -rf "$made"
    return $status
}

run_targets() {
    local records=() record
    for record in "$out/layers.json" "$out/models.json"; do
        [ ! -f "$record" ] || records+=("$record")
    done
    [ ${#records[@]} -gt 0 ] || { skip 'nothing was measured'; return; }
    "$pack/xtask" targets "${records[@]}" | tee "$temporary/targets"
    [ "${PIPESTATUS[0]}" = 0 ] || { fail 'no list'; return; }
    cp "$temporary/targets" "$out/targets.md"
    reason=$(tail -n1 "$temporary/targets")
}

find_nvrtc
results=() failures=0
for step in "${steps[@]}"; do
    start=$SECONDS deadline=$((SECONDS + limit)) reason=''
    echo "== $step"
    "run_$step"
    status=$?
    case $status in
    0) result=PASS ;;
    77) result=SKIPPED ;;
    *) result=FAIL failures=$((failures + 1)) ;;
    esac
    results+=("| $step | $result | $((SECONDS - start)) s | $reason |")
    echo "== $step: $result${reason:+: $reason} ($((SECONDS - start)) s)"
done

{
    echo '| step | result | time | |'
    echo '|---|---|---|---|'
    printf '%s\n' "${results[@]}"
} | tee "$out/summary.md"
[ $failures = 0 ]
