# The story that started this project: two services, of which the first one is stopped.

case_stock() { # as OTP has it: the daemon ends with the service that started it, and the other release is not found
  install_release prod stock
  install_release stage stock
  start_nodes prod
  start_nodes stage
  local daemon
  daemon=$(inside pidof epmd)
  inside grep -q 'prod\.service' "/proc/$daemon/cgroup" || fail "epmd is not in prod's control group, but in $(inside cat "/proc/$daemon/cgroup")."
  stop_units prod
  ! is_running "$daemon" || fail "epmd outlived the service that started it."
  local said
  ! is_found stage || fail "stage is found."
  said=$(lost_rpc)
  figure "bin/stage rpc: ${said#*: }"
}

case_ours() { # the same with the guide's units: the other release is found at the first try, and there is no daemon
  install_release prod
  install_release stage
  start_nodes prod stage
  start_probe stage
  stop_units prod
  local since
  since=$(now)
  [[ $(rpc stage 'IO.puts(node())') == "stage@$host" ]] || fail "bin/stage rpc does not work."
  figure "bin/stage rpc: stage@$host at the first try, $(($(now) - since)) ms"
  probed
  stop_probe
  # Of two users none of which names the other: who asked the one that ended may be reset.
  figure "$failed of $asked lookups meanwhile failed"
  ((failed <= 3)) || fail "$failed lookups failed: $wrong"
  ! inside pidof epmd || fail "There is an epmd daemon."
}

# What bin/stage rpc says while nobody knows stage. It starts a daemon, at which stage registers within 2 seconds: where
# that was quicker, it says who it is.
lost_rpc() {
  local said
  said=$(rpc stage 'IO.puts(node())' 2>&1) || [[ $said == *:nodedown* ]] || fail "bin/stage rpc says: $said"
  inside pidof epmd >/dev/null || fail "bin/stage rpc started no daemon, and says: $said"
  echo "$said"
}
