# Units that narrow what a service may do.

# Two releases with these lines beside the guide's unit. Most of these lines give a unit namespaces of its own, so each
# names its own user.
hardened() { # LINE...
  local name
  for name in prod stage; do
    install_release "$name"
    configure "$name" '[{hand_over, [{users, [<<"prod">>]}]}]'
    setting "$name" User=prod Group=prod "$@"
  done
  start_nodes prod
  start_nodes stage
}

readonly hardest=(MemoryDenyWriteExecute=yes PrivateUsers=yes ProtectProc=invisible ProcSubset=pid
  SystemCallFilter=@system-service 'RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX' NoNewPrivileges=yes
  ProtectSystem=strict ProtectHome=yes PrivateTmp=yes PrivateDevices=yes)

case_hardening() { # each of them alone, and all at once: one stands by, and nobody notices its owner's death
  local round=0 set
  for set in MemoryDenyWriteExecute=yes PrivateUsers=yes ProtectProc=invisible ProcSubset=pid \
    SystemCallFilter=@system-service all; do
    if [[ $set == all ]]; then hardened "${hardest[@]}"; else hardened "$set"; fi
    need 20 "one stands by with $set" has_standbys "$(owner)" 1
    start_stock 1
    remember_sockets stock1
    start_probe stock1
    inside kill -9 "$(main_pid "$(owner)")"
    none_failed "$set"
    stop_probe
    same_sockets "$set"
    reset_host
    round=$((round + 1))
  done
  figure "$round units, 0 failed lookups"
}

case_hardened_store() { # all of them, one release: the store keeps its nodes
  install_release prod
  setting prod "${hardest[@]}" Restart=always
  guide_block FileDescriptorStoreMax | install_drop_in prod
  start_nodes prod
  start_stock 3
  live_through 0 restart kill
}

case_no_unix_sockets() { # without AF_UNIX nobody can stand by, and log and doctor say so
  hardened 'RestrictAddressFamilies=AF_INET AF_INET6'
  inside sleep 2
  has_standbys "$(owner)" 0 || fail "Somebody stands by."
  journal "$(owner)" | grep AF_UNIX || fail "The log does not name AF_UNIX: $(journal "$(owner)")"
  rpc "$(owner)" 'EmbeddedEpmd.doctor()' | grep AF_UNIX || fail "The doctor does not name AF_UNIX."
  start_stock 1
  local since
  since=$(now)
  inside kill -9 "$(main_pid "$(owner)")"
  await 10 is_not_found stock1 || true
  await_node stock1
  figure "the stock node is found again after $(($(now) - since)) ms"
}

is_not_found() { ! is_found "$1"; }

case_hidden() { # ProtectProc= and ProcSubset= hide from the doctor who owns the port, and it says what to do
  install_release prod
  install_release stage
  setting stage ProtectProc=invisible ProcSubset=pid
  start_nodes prod
  start_nodes stage
  rpc stage 'EmbeddedEpmd.doctor()' | grep -F "ss -ltnp 'sport = :4369'" || fail "$(rpc stage 'EmbeddedEpmd.doctor()')"
  inside ss -Hltnp 'sport = :4369' | grep -q beam || fail "ss does not tell who has the port."
  figure "the doctor names ss, which tells it"
}

case_dynamic_users() { # DynamicUser=: one User=, or a common Group= that both name; one stands by
  local name
  for name in prod stage; do
    install_release "$name"
    setting "$name" DynamicUser=yes User=beam Environment=RELEASE_TMP=/tmp
    configure "$name" '[{hand_over, [{users, [<<"beam">>]}]}]'
  done
  start_nodes prod
  start_nodes stage
  need 20 "one stands by with one user" has_standbys prod 1
  reset_host
  inside groupadd --force --system nodes
  for name in prod stage; do
    install_release "$name"
    setting "$name" DynamicUser=yes "User=dyn-$name" Group=nodes Environment=RELEASE_TMP=/tmp
    configure "$name" '[{hand_over, [{groups, [<<"nodes">>]}]}]'
  done
  start_nodes prod
  start_nodes stage
  need 20 "one stands by with a common group" has_standbys prod 1
  start_stock 1
  remember_sockets stock1
  inside kill -9 "$(main_pid prod)"
  need 20 "stage serves" has_role stage serving
  same_sockets "With a common group"
  figure "one User=beam, and a common Group=nodes"
}

case_private_network() { # PrivateNetwork=: each unit has a port 4369 of its own
  local name
  for name in prod stage; do
    install_release "$name"
    setting "$name" PrivateNetwork=yes
    start "$name"
  done
  need 30 "prod serves" journal_has prod "serving the port"
  need 30 "stage serves" journal_has stage "serving the port"
  [[ ! $(inside ss -Hltn 'sport = :4369') ]] || fail "The host has a listener."
  figure "both serve, and the host's port is free"
}
