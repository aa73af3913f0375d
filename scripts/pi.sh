#!/usr/bin/env bash
# Types README's lines for a Raspberry Pi: those of the PC here, those of the Pi in an emulated arm64 Debian 12 with the
# processor of a Raspberry Pi 4. As root.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/root.sh
. scripts/root.sh
usage="Usage: scripts/pi.sh [--lines] [--mirror URL] [--keep FOLDER]
  --lines   prints the lines that are typed, and the answer that must come; runs nothing
  --mirror  where the Debian packages come from; default the first one among this machine's apt sources
  --keep    the folder of the emulated root: made once, then used again. Default .pi
Environment: VENV (default .venv), the environment whose agq packs the model where that was not done yet; QEMU_STATIC."

page=README.md title="## On a Raspberry Pi"
model=smollm2.agq.safetensors # what README's first lines pack; the lines for the Pi take it
cpu=cortex-a72
mirror="" keep=.pi lines=""
while [ $# -gt 0 ]; do
  case $1 in
  --lines) lines=yes && shift ;;
  --mirror) mirror=$2 && shift 2 ;;
  --keep) keep=$2 && shift 2 ;;
  -h | --help) echo "$usage" && exit ;;
  *) echo "$usage" >&2 && exit 2 ;;
  esac
done

# Of the section: `pc` and `pi` with a line to type, from its first and second console block, and `answer` with what the
# page shows below the last line.
section() {
  awk -v title="$title" '
    /^## /                  { inside = ($0 == title) }
    inside && /^```console/ { block++; open = 1; next }
    /^```/                  { open = 0 }
    inside && open && /^\$ / { print (block == 1 ? "pc" : "pi") "\t" substr($0, 3); next }
    inside && open          { print "answer\t" $0 }' "$page"
}
of() { section | sed -n "s/^$1\t//p"; } # pc|pi|answer
for part in pc pi answer; do
  [ -n "$(of $part)" ] || stop "$page, section \`${title#\#\# }\`: no line for $part" \
    "two console blocks, the second with an answer"
done
[ -z "$lines" ] || { section && exit; }

# ---- in the name space

# This name space's own table of foreign binaries, which Linux has since 6.7; else the machine's own must know arm64.
emulate() {
  local magic='\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  local table=/proc/sys/fs/binfmt_misc
  if [ "$(uname -m)" = aarch64 ] || ! mount -t binfmt_misc none $table 2>/dev/null; then return; fi
  printf '%s' ":agq-pi:M::$magic:$mask:$(command -v "$QEMU_STATIC"):OCF" >$table/register
}

make_root() { # FOLDER
  echo "== making an arm64 Debian 12 in $1: once, some minutes"
  # debootstrap asks for this variable where device files cannot be made, as in a name space.
  container=lxc debootstrap --arch=arm64 --variant=minbase --include=apt-utils,ca-certificates,python3,sudo \
    bookworm "$1" "$mirror" >"$keep/debootstrap.log" 2>&1 ||
    stop "debootstrap failed: $(tail -n 1 "$keep/debootstrap.log")" \
    "see $keep/debootstrap.log; where it says \`Exec format error\`: apt-get install qemu-user-static binfmt-support"
  # As Raspberry Pi OS has it: a first user whose sudo asks for no password.
  chroot "$1" useradd --create-home --shell /bin/bash pi
  echo 'pi ALL=(ALL) NOPASSWD: ALL' >"$1/etc/sudoers.d/pi"
  printf '127.0.0.1 localhost raspberrypi\n' >"$1/etc/hosts"
  mv "$1" "$keep/root"
}

inside() {
  hostname raspberrypi
  emulate
  export QEMU_CPU=$cpu
  if [ ! -d "$keep/root" ]; then
    rm -rf --one-file-system "$keep/new"
    make_root "$keep/new"
  fi
  local root=$keep/run line start
  cp -a "$keep/root" "$root" # each run begins with a Pi that nobody has used
  copy_settings "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  cp "$keep"/sent/* "$root/home/pi/"
  chroot "$root" chown -R pi: /home/pi
  while read -r line <&3; do
    printf '\npi@raspberrypi:~ $ %s\n' "$line"
    start=$SECONDS
    type_line "$root" pi /home/pi /home/pi "$line" QEMU_CPU=$cpu </dev/null | tee "$keep/said" ||
      stop "this line of $page ended with exit code ${PIPESTATUS[0]}" "what it printed stands above"
    printf '== after %s s\n' $((SECONDS - start))
  done 3< <(of pi)
  [ "$(cat "$keep/said")" = "$(of answer)" ] ||
    stop "the answer is not the one of $page: $(of answer)" "the last line typed shows what came"
}
if [ -n "${AGQ_PI_INSIDE:-}" ]; then
  inside # no `&&` behind it: bash would go on after a line that fails
  exit
fi

# ---- on the PC

export QEMU_STATIC=${QEMU_STATIC:-qemu-aarch64-static}
scripts/deps.sh build cross pi
needs_root pi.sh
[ -n "$mirror" ] || mirror=$(mirror_of_this_machine)
mkdir -p "$keep"
keep=$(realpath "$keep")
exec 9>"$keep/lock"
flock -n 9 || stop "another run uses $keep" "--keep FOLDER"

packed="" child=""
clean() {
  [ -z "$child" ] || { kill "$child" && wait "$child"; } 2>/dev/null || true
  [ -z "$packed" ] || rm -f $model
  rm -rf --one-file-system "${keep:?}"/{run,sent,bin,go,said}
}
trap clean EXIT
clean
mkdir "$keep/sent" "$keep/bin"
if [ ! -e $model ]; then
  "${VENV:-.venv}/bin/python" demo/smollm2.py pack
  packed=.demo/smollm2/$model
  ln -s "$packed" $model
fi

unset MAKELEVEL      # `make` of the lines is not a part of the one that runs this script
unset PIP_FIND_LINKS # a folder of this machine, which the Pi has not
# `scp` of the PC's lines: what is sent waits for the Pi. The last argument names the Pi.
cat >"$keep/bin/scp" <<SCP
#!/bin/sh
while [ \$# -gt 1 ]; do cp -L "\$1" '$keep/sent/' && shift || exit 1; done
SCP
chmod +x "$keep/bin/scp"
while read -r line <&3; do
  printf '\npc $ %s\n' "$line"
  PATH="$keep/bin:$PATH" bash -e -o pipefail -c "$line" </dev/null ||
    stop "this line of $page ended with exit code $?" "what it printed stands above"
done 3< <(of pc)

# A user name space in which all user numbers exist: only its maker, root, can write that map, from outside.
mkfifo "$keep/go"
# shellcheck disable=SC2016  # the inner shell's own arguments
AGQ_PI_INSIDE=1 unshare --user --mount --pid --uts --fork --kill-child \
  bash -c 'read -r _ <"$1"; shift; exec setpriv --reuid 0 --regid 0 --clear-groups "$@"' - \
  "$keep/go" "$PWD/scripts/pi.sh" --keep "$keep" --mirror "$mirror" &
child=$!
until [ "$(readlink /proc/$child/ns/user)" != "$(readlink /proc/$$/ns/user)" ]; do sleep 0.05; done
{ echo "0 0 65536" >/proc/$child/uid_map && echo "0 0 65536" >/proc/$child/gid_map; } 2>/dev/null ||
  stop "this machine makes no user name space" "in a container, this job needs a privileged one"
echo >"$keep/go"
wait $child
