#!/usr/bin/env bash
# Runs commands in a fresh clone on a bare Debian 12: what a newcomer meets. As root, with debootstrap.
set -euo pipefail
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

stop() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2 && exit 1; }
[ "$(id -u)" = 0 ] || stop "a new root can only be made by root" "sudo scripts/bare.sh ..."
command -v debootstrap >/dev/null || stop "debootstrap is missing" "apt-get install debootstrap"
repository=$(realpath "$(dirname "$0")/..")
commit=$(git -C "$repository" rev-parse --verify "$commit^{commit}")
# shellcheck disable=SC2016  # apt-get's own variable
[ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)
[ -n "$mirror" ] || stop "this machine's apt sources name no mirror" "--mirror URL"

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
for path in /etc/resolv.conf /etc/pip.conf /etc/xdg/pip /etc/ssl/certs /etc/apt/apt.conf.d /etc/apt/sources.list.d; do
  [ -e "$path" ] || continue
  mkdir -p "$root$(dirname "$path")"
  rm -rf "${root:?}$path"
  cp -rL "$path" "$root$path"
done
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

# A login's environment, and of this one what pip and TLS go by.
kept=()
while IFS='=' read -r name value; do
  case $name in PIP_* | SSL_CERT_* | REQUESTS_CA_BUNDLE | *_proxy) kept+=("$name=$value") ;; esac
done < <(env)
for command in "$@"; do
  printf '\n== %s: %s\n' "$user" "$command"
  start=$SECONDS status=0
  chroot "$root" su "$account" -c \
    "cd '$home/agq' && exec env -i HOME='$home' USER='$account' LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
     $(printf '%q ' "${kept[@]}") sh -c $(printf '%q' "$command")" || status=$?
  printf '== exit code %s after %s s\n' "$status" $((SECONDS - start))
  [ "$status" = 0 ] || exit "$status"
done
