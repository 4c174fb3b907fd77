defmodule EmbeddedEpmd.Systemd.AloneTest do
  # One release alone on its host, with a socket unit and the descriptor store.
  use Support.ServiceCase

  require Logger

  test "one release, 20 stock nodes, a C node: 20 restarts and 10 kills; nothing is refused, lost or registered again" do
    install("prod")
    install_store("prod")
    install_socket("prod")
    setting("prod", "Sockets=prod-epmd.socket")
    let_it_restart("prod")
    start("prod-epmd.socket")
    start_nodes("prod")
    others = start_stock(20) ++ [start_c_node()]
    creations = creations("prod")
    assert map_size(creations) == 22
    watched = watch(others)
    assert length(watched.sockets) == 21

    longest =
      for round <- 1..30 do
        if round <= 20, do: restart_node("prod"), else: kill_node("prod")
        %{longest: longest} = assert_undisturbed(watched, "round #{round}")
        Logger.info("round #{round}: #{longest} ms")
        longest
      end

    assert Map.delete(creations("prod"), "prod") == Map.delete(creations, "prod")
    asked = stop_watching(watched)
    {restarts, kills} = Enum.split(longest, 20)
    figure("20 restarts, 10 kills: #{asked} lookups, 0 refused, 0 missing; 21 sockets and creations as before")
    figure("the longest lookup #{Enum.max(restarts)} ms over a restart, #{Enum.max(kills)} ms over a kill")
  end
end
