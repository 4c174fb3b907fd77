# What ends a service, with the same promise each time: no lookup fails, and no stock node registers again.

# Which of the two serves.
owner() {
  local name
  for name in prod stage; do if has_role "$name" serving; then echo "$name" && return; fi; done
}

# Each of these comes over the service that serves the port.
end_by_restart() { inside systemctl restart "$1"; }
end_by_stop() { stop_units "$1" && start "$1"; }
end_by_crash() { inside kill -SEGV "$(main_pid "$1")"; }
end_by_halt() { rpc "$1" 'spawn(fn -> Process.sleep(50); :erlang.halt(1) end)'; }
end_by_kill() { inside kill -9 "$(main_pid "$1")"; }
end_by_memory() {
  rpc "$1" 'spawn(fn -> for n <- 1..99, do: {n, :binary.copy("x", 20_000_000)} end)'
}
end_by_deploy() {
  inside ln -sfnT "/opt/made/newer/$1" "/opt/$1"
  inside systemctl restart "$1"
  await_node "$1"
  [[ $(rpc "$1" 'IO.puts(Application.spec(:greeter, :vsn))') == 0.2.0 ]] || fail "$1 is not the new version."
}

# Has it all come over what runs; figures are the longest lookup for each.
live_through() { # STANDBYS EVENT...
  local standbys=$1 event serving pid lost=0 times=()
  remember_sockets "${stock[@]}"
  start_probe "${stock[@]}"
  for event in "${@:2}"; do
    serving=$(owner)
    need 20 "$standbys stand by for $serving" has_standbys "$serving" "$standbys"
    pid=$(main_pid "$serving")
    "end_by_$event" "$serving"
    need 30 "$serving starts again" is_another "$serving" "$pid"
    await_node "$serving"
    probed
    # A process that has no memory is slow to answer those whom it has accepted, and their sockets end with it.
    [[ $failed == 0 || $event == memory && $failed -le 2 ]] || fail "$event: $failed lookups failed: $wrong"
    lost=$((lost + failed))
    times+=("$event $longest ms")
    same_sockets "$event"
  done
  stop_probe
  figure "$asked lookups, $lost failed, ${#stock[@]} sockets as before; the longest: $(printf '%s, ' "${times[@]}" | sed 's/, $//')"
}

is_another() { # NAME PID
  local pid
  pid=$(main_pid "$1")
  [[ $pid != 0 && $pid != "$2" ]]
}

readonly limited=(MemoryMax=250M Restart=always)
readonly all_ends=(restart crash halt kill memory deploy)

case_one() { # one release with the descriptor store: restart, crash, halt, kill, out of memory, another version
  install_release prod
  guide_block FileDescriptorStoreMax | install_drop_in prod
  let_it_restart prod
  setting prod "${limited[@]}"
  start_nodes prod
  start_stock 3
  live_through 0 "${all_ends[@]}"
}

case_same_user() { # the same over two releases of one user
  pair
  setting stage User=prod
  start_nodes prod stage
  start_stock 3
  live_through 1 stop "${all_ends[@]}"
}

case_two_users() { # the same over two releases of two users, each of which names the other
  pair
  name_users prod stage
  start_nodes prod stage
  start_stock 3
  live_through 1 stop "${all_ends[@]}"
}

pair() {
  install_release prod
  install_release stage
  setting prod "${limited[@]}"
  setting stage "${limited[@]}"
}

# As the guide has it.
name_users() { # NAME...
  local name
  for name; do configure "$name" '[{hand_over, [{users, [<<"prod">>, <<"stage">>]}]}]'; done
}

reboot_host() {
  inside systemctl reboot
  need 30 "the container ends" is_down "$leader"
  await_boot
}

is_down() { [[ ! -e /proc/$1 ]]; }

case_reboot() { # the host reboots, with one release and with two: all are found at the first try
  local round
  install_release prod
  guide_block FileDescriptorStoreMax | install_drop_in prod
  inside systemctl enable --quiet prod
  reboot_host
  await_node prod
  [[ $(rpc prod 'IO.puts(node())') == "prod@$host" ]] || fail "bin/prod rpc does not work."
  install_release stage
  setting stage User=prod
  inside systemctl enable --quiet stage
  for ((round = 1; round <= 3; round++)); do
    reboot_host
    await_node prod
    await_node stage
    [[ $(rpc prod 'IO.puts(node())') == "prod@$host" ]] || fail "bin/prod rpc does not work."
    [[ $(rpc stage 'IO.puts(node())') == "stage@$host" ]] || fail "bin/stage rpc does not work."
    need 20 "one stands by" has_standbys "$(owner)" 1
  done
  figure "1 + 3 reboots, 7 times rpc at the first try"
}
