#!/bin/sh
# Makes a virtual environment and installs agq there, editable, at the versions of constraints.txt.
# Usage: scripts/venv.sh FOLDER build|run|EXTRA
#   build   what builds a wheel, and no agq
#   run     agq without PyTorch: packs and runs, does not quantize
#   EXTRA   quantize, test or dev
# Environment: PYTHON, PIP_TORCH_ARGS (further arguments for pip when it installs PyTorch).
set -eu
venv=$1
extra=$2
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"

# pip's own progress where somebody watches, silence (but for errors) in a log.
quiet=-q
[ -t 1 ] && quiet=
pip() { "$venv/bin/python" -m pip --disable-pip-version-check install $quiet -c constraints.txt "$@" </dev/null; }
say() { printf '\n== %s\n' "$*"; }

say "Installing build tools"
pip setuptools
[ "$extra" != build ] || exit 0

if [ "$extra" = run ]; then
  say "Installing agq without PyTorch, compiling its kernels"
  pip --no-build-isolation -e .
  exit
fi

torch=$(sed -n 's/^torch==//p' constraints.txt)
if ! "$venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '$torch')" 2>/dev/null; then
  say "Installing PyTorch $torch for the CPU (about 200 MB)"
  # shellcheck disable=SC2086  # several arguments in one variable are meant
  if ! pip ${PIP_TORCH_ARGS:-} "torch==$torch+cpu" 2>"$venv/torch.log"; then
    if ! grep -q 'No matching distribution' "$venv/torch.log"; then
      cat "$venv/torch.log" >&2
      exit 1
    fi
    if [ "$(uname -m)" = x86_64 ]; then
      cat <<EOF
   pip's package index has no CPU-only build of PyTorch for this machine. Taking the usual build, which works as well, but brings
   CUDA libraries along: several GB. To save them, stop this (Ctrl-C), look up the package index for "CPU" on pytorch.org
   ("Get started": Linux, Pip, CPU) and start again with it:
       make PIP_TORCH_ARGS='--index-url ADDRESS' ...
EOF
    fi
    pip ${PIP_TORCH_ARGS:-} "torch==$torch"
  fi
fi

say "Installing agq with what it needs ($extra), compiling its kernels"
pip --no-build-isolation -e ".[$extra]"
