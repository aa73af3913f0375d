#!/usr/bin/env bash
# Runs commands in a fresh clone on a bare Debian 12: what a newcomer meets. As root, with debootstrap.
set -euo pipefail
# shellcheck source=scripts/root.sh
. "$(dirname "$0")/root.sh"
usage="Usage: scripts/bare.sh [--as root|sudo|plain] [--commit C] [--mirror URL] [--bind FOLDER] [--keep FOLDER] [COMMAND ...]
  --as      who runs the commands: root (the default), a user whose sudo asks for no password, a user without sudo
  --commit  what is cloned; default HEAD
  --mirror  where the Debian packages come from; default the first one among this machine's apt sources
  --bind    a folder of this machine that is seen in there too, read-only: for example one with wheels. Several times
  --keep    the folder of the new root; a bare one that lies there is used again. Default a temporary one, removed at the end
  COMMAND   default: 'make demo' 'make test'
What this machine knows about its package mirrors goes along: certificates, resolv.conf, pip's settings."

user=root commit=HEAD mirror="" keep="" binds=()
while [ $# -gt 0 ]; do
  case $1 in
  --as) user=$2 && shift 2 ;;
  --commit) commit=$2 && shift 2 ;;
  --mirror) mirror=$2 && shift 2 ;;
  --bind) binds+=("$(realpath "$2")") && shift 2 ;;
  --keep) keep=$2 && shift 2 ;;
  -h | --help) echo "$usage" && exit ;;
  -*) echo "$usage" >&2 && exit 2 ;;
  *) break ;;
  esac
done
[ $# -gt 0 ] || set -- "make demo" "make test"
case $user in root | sudo | plain) ;; *) echo "$usage" >&2 && exit 2 ;; esac

needs_root bare.sh
repository=$(realpath "$(dirname "$0")/..")
commit=$(git -C "$repository" rev-parse --verify "$commit^{commit}")
[ -n "$mirror" ] || mirror=$(mirror_of_this_machine)

# Mounts are made in a name space of this script's own: they are gone when it ends, however it ends.
if [ -z "${AGQ_BARE_INSIDE:-}" ]; then
  root=${keep:-$(mktemp -d)}
  status=0
  options=(--as "$user" --commit "$commit" --mirror "$mirror" --keep "$root")
  for folder in "${binds[@]}"; do options+=(--bind "$folder"); done
  AGQ_BARE_INSIDE=1 unshare --mount --pid --fork "$0" "${options[@]}" "$@" || status=$?
  [ -n "$keep" ] || rm -rf --one-file-system "$root"
  exit $status
fi

root=$(realpath -m "$keep")
if [ ! -f "$root/etc/bare" ]; then
  debootstrap --variant=minbase --include=ca-certificates,gcc,git,make,python3 bookworm "$root" "$mirror" >&2
  touch "$root/etc/bare"
fi
copy_settings "$root" /etc/apt/sources.list.d
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for folder in "${binds[@]}"; do
  mkdir -p "$root$folder"
  mount --bind "$folder" "$root$folder"
  mount -o remount,bind,ro "$root$folder"
done

account=root home=/root
if [ "$user" != root ]; then
  account=newcomer-$user home=/home/newcomer-$user
  chroot "$root" id "$account" >/dev/null 2>&1 || chroot "$root" useradd --create-home "$account"
fi
if [ "$user" = sudo ]; then
  chroot "$root" sh -c 'apt-get update -qq && apt-get install -y -qq sudo' </dev/null >&2
  echo "$account ALL=(ALL) NOPASSWD: ALL" >"$root/etc/sudoers.d/bare"
fi
rm -rf "${root:?}$home/agq"
if [ -f "${HOME:-/root}/.config/pip/pip.conf" ]; then
  mkdir -p "$root$home/.config/pip"
  cp "${HOME:-/root}/.config/pip/pip.conf" "$root$home/.config/pip/"
fi
git clone -q --no-hardlinks "$repository" "$root$home/agq"
git -C "$root$home/agq" checkout -q "$commit"
[ "$user" = root ] || chroot "$root" chown -R "$account:" "$home"

for command in "$@"; do
  printf '\n== %s: %s\n' "$user" "$command"
  start=$SECONDS status=0
  type_line "$root" "$account" "$home" "$home/agq" "$command" || status=$?
  printf '== exit code %s after %s s\n' "$status" $((SECONDS - start))
  [ "$status" = 0 ] || exit "$status"
done
