# One release alone on its host, with a socket unit and the descriptor store.

case_alone() { # one release, 20 stock nodes, a C node: 20 restarts and 10 kills; nothing is refused, lost or registered again
  local round creations_before worst=0 worst_kill=0
  install_release prod
  guide_block FileDescriptorStoreMax | install_drop_in prod
  guide_block ListenStream | write_unit prod-epmd.socket
  setting prod Sockets=prod-epmd.socket
  let_it_restart prod
  start prod-epmd.socket
  start_nodes prod
  start_stock 20
  start_c_node
  remember_sockets "${stock[@]}" cnode
  (($(wc -l <<<"$before") == 21)) || fail "These sockets were found, of 21: $before"
  creations_before=$(creations prod)
  (($(wc -l <<<"$creations_before") == 22)) || fail "These creations were found, of 22: $creations_before"
  start_probe "${stock[@]}" cnode
  for ((round = 1; round <= 30; round++)); do
    if ((round <= 20)); then
      inside systemctl restart prod
    else
      inside kill -9 "$(main_pid prod)"
    fi
    await_node prod
    none_failed
    echo "round $round: $longest ms"
    ((round <= 20)) && worst=$((longest > worst ? longest : worst)) || worst_kill=$((longest > worst_kill ? longest : worst_kill))
    same_sockets "Round $round"
  done
  [[ $(creations prod | grep -v ^prod) == "$(grep -v ^prod <<<"$creations_before")" ]] || fail "The creations are others: $(creations prod)"
  stop_probe
  figure "20 restarts, 10 kills: $asked lookups, 0 refused, 0 missing; 21 sockets and creations as before"
  figure "the longest lookup $worst ms over a restart, $worst_kill ms over a kill"
}
