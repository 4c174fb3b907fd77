# The container of bin/test-systemd. To be sourced.

readonly container=/mnt host=ep users=(prod stage other)
nspawn=''

# Debian's services are there, and none runs until a test wants it.
readonly debians=(epmd.socket epmd.service rabbitmq-server.service ejabberd.service)

make_container() { # ROOT
  local machine=$container/root
  # What is written ends with this script's namespace.
  mount -t tmpfs tmpfs "$container"
  # It has to be in memory, or no container of it can be booted again.
  mkdir -p /run/systemd/nspawn
  mount -t tmpfs tmpfs /run/systemd/nspawn
  mkdir "$container"/{upper,work,root}
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$container/upper,workdir=$container/work" "$machine"
  mkdir -p "$machine/opt"
  cp -a "$results/systemd" "$machine/opt/made"
  cp "$repository"/test/support/prober.ex "$repository"/bin/test-systemd.d/*.exs "$machine/opt/made/"
  systemctl --root="$machine" is-enabled "${debians[@]}" >"$machine/opt/made/enabled" || true
  systemctl --quiet --root="$machine" disable "${debians[@]}" 2>/dev/null
  systemctl --quiet --root="$machine" mask apt-daily{,-upgrade}.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer dpkg-db-backup.timer systemd-networkd-wait-online.service
  # As Debian's installer writes it.
  printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$host" >"$machine/etc/hosts"
  echo "$host" >"$machine/etc/hostname"
  rm -f "$machine/etc/resolv.conf"
  local user
  for user in "${users[@]}"; do chroot "$machine" useradd --system --home-dir / --shell /usr/sbin/nologin "$user"; done
}

boot_container() {
  local folder
  for folder in $(control_groups); do mkdir -p "$folder"; done
  echo "Booting $(chroot "$container/root" systemctl --version | head -n 1)"
  boot_in_group &
  nspawn=$!
}

boot_in_group() {
  local folder code=133
  for folder in $(control_groups); do echo "$BASHPID" >"$folder/cgroup.procs"; done
  # With this status it asks to be run again, since the container reboots.
  while ((code == 133)); do
    code=0
    systemd-nspawn --quiet --boot --register=no --keep-unit --private-network --directory="$container/root" \
      --machine="$host" --link-journal=no --timezone=off --resolv-conf=off --console=pipe \
      </dev/null >>"$logs/console.log" 2>&1 || code=$?
  done
}

# What the container uses of the machine's control groups: one of its own in each hierarchy, beside that of its tests.
control_groups() {
  local controllers path
  while IFS=: read -r _ controllers path; do
    path=${path%/"$group"}/$group
    case $controllers in
      name=systemd) echo "/sys/fs/cgroup/systemd$path" ;;
      memory) echo "/sys/fs/cgroup/memory$path" ;;
      '') if [[ -d /sys/fs/cgroup/unified ]]; then echo "/sys/fs/cgroup/unified$path"; else echo "/sys/fs/cgroup$path"; fi ;;
    esac
  done </proc/self/cgroup
}

remove_control_groups() {
  local folder
  for folder in $(control_groups); do
    [[ ! -d $folder ]] || find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}
