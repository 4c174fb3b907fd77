# Units of other types, and what a user does with them.

case_types() { # Type=exec and Type=notify: whether the service is ready is for the service to say
  install_release prod
  guide_block FileDescriptorStoreMax | install_drop_in prod
  start_nodes prod
  inside systemctl is-active prod || fail "prod is not active."
  inside systemctl stop prod
  setting prod Type=notify NotifyAccess=all TimeoutStartSec=30 ExecStart= \
    "ExecStart=/bin/sh -c '(while ! test -e /run/ready; do sleep 0.1; done; exec systemd-notify --ready) & exec /opt/prod/bin/prod start'"
  inside systemctl start --no-block prod
  need 30 "prod serves" journal_has prod "serving the port"
  await_node prod
  inside sleep 2
  [[ $(inside systemctl is-active prod) == activating ]] || fail "It was ready before it said so."
  inside touch /run/ready
  need 10 "it is active" inside systemctl --quiet is-active prod
  inside rm /run/ready
  figure "active when the service said READY=1, and not before"
}

case_silent_notify() { # Type=notify for a release that never says READY=1, as the guide warns: the start fails
  install_release prod
  setting prod Type=notify TimeoutStartSec=5 Restart=no
  ! inside systemctl start prod || fail "It started."
  [[ $(inside systemctl show --property=Result --value prod) == timeout ]] || fail "Its result is another."
  setting prod Type=exec WatchdogSec=3
  start prod
  need 30 "the watchdog ends it" has_result prod watchdog
  figure "timeout, watchdog"
}

has_result() { [[ $(inside systemctl show --property=Result --value "$1") == "$2" ]]; } # UNIT RESULT

case_boot_stop() { # TERM to a VM that boots is lost, in OTP: TimeoutStopSec= of the guide ends it after 20 seconds
  local since
  install_release prod
  start prod
  inside sleep 0.2
  since=$(now)
  inside systemctl stop prod
  since=$(($(now) - since))
  ((since < 25000)) || fail "It took $since ms."
  figure "$since ms"
  start_nodes prod
  inside sleep 1
  since=$(now)
  inside systemctl stop prod
  since=$(($(now) - since))
  has_result prod success && ((since < 10000)) || fail "A stop in order took $since ms."
  figure "in order $since ms, without ExecStop="
}

case_init_restart() { # init:restart of a VM with a socket unit and a store: the same process serves again, with all nodes
  local pid
  activated
  guide_block FileDescriptorStoreMax | install_drop_in prod
  inside systemctl daemon-reload
  await_node prod
  start_stock 3
  remember_sockets "${stock[@]}"
  pid=$(main_pid prod)
  rpc prod ':init.restart()'
  need 30 "it boots again" has_greeted prod 2
  await_node prod
  [[ $(main_pid prod) == "$pid" ]] || fail "It is another process."
  local name same
  for name in "${stock[@]}"; do await_node "$name"; done
  same=$(comm -12 <(echo "$before") <(sockets "${stock[@]}") | wc -l)
  figure "$same of 3 sockets as before"
  # What comes after it finds all of them.
  need 10 "they are stored" has_stored prod 3
  remember_sockets "${stock[@]}"
  inside kill -9 "$pid"
  need 30 "another process serves" is_another prod "$pid"
  await_node prod
  same_sockets "After a kill"
}

has_greeted() { (($(journal "$1" | grep -c greets) >= $2)); } # NAME TIMES

case_run() { # systemd-run: another VM joins, and stops in order
  install_release prod
  start_nodes prod
  inside systemd-run --quiet --unit=other-run --uid=other --setenv=RELEASE_DISTRIBUTION=sname --setenv=RELEASE_NODE=extra \
    --setenv=RELEASE_TMP=/tmp /opt/made/ours/stage/bin/stage start
  await_node extra
  inside systemctl stop other-run
  ! is_found extra || fail "It is still known."
}
