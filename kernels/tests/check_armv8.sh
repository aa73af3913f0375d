#!/bin/sh
# check_armv8.sh CROSS OBJECT...: fails if an object holds an instruction that the base architecture (Armv8.0-A with floating
# point and SIMD, no extension) lacks. Every distinct instruction of the disassembly is assembled again for exactly that
# architecture: what the assembler refuses would trap on a Cortex-A72.
set -e
cross=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${cross}objdump" -d --no-show-raw-insn "$@" | sed -n 's/^ *[0-9a-f]*:[[:space:]]*//p' |
  sed -e 's,[[:space:]]*//.*,,' -e 's/[0-9a-f][0-9a-f]* <[^>]*>/./' -e 's/[[:space:]]*$//' | sort -u >"$dir/all.s"
# Words that are data, not code, and addresses that the assembler would want to resolve.
grep -v -e '^\.' -e '^undefined' -e '^udf' "$dir/all.s" >"$dir/code.s"
count=$(wc -l <"$dir/code.s")
[ "$count" -gt 100 ] || { echo "error: only $count instructions found in $*"; exit 1; }
if ! "${cross}as" -march=armv8-a -o "$dir/code.o" "$dir/code.s" 2>"$dir/errors"; then
  echo "error: instructions beyond Armv8.0:"
  sed -n 's/^[^:]*:\([0-9]*\): Error: .*/\1/p' "$dir/errors" | while read -r n; do sed -n "${n}p" "$dir/code.s"; done | head -20
  exit 1
fi
echo "$count different instructions, all of Armv8.0"
