defmodule EmbeddedEpmd.Systemd.AloneTest do
  # One release alone on its host, with a socket unit and the descriptor store.
  use Support.ServiceCase

  require Logger

  test "one release, 20 stock nodes, a C node: 20 restarts and 10 kills; nothing is refused, lost or registered again" do
    install_release("prod")
    install_store("prod")
    install_socket("prod")
    setting("prod", "Sockets=prod-epmd.socket")
    let_it_restart("prod")
    start("prod-epmd.socket")
    start_nodes("prod")
    others = start_stock(20) ++ [start_c_node()]
    sockets = sockets(others)
    assert length(sockets) == 21
    creations = creations("prod")
    assert map_size(creations) == 22
    lookups = start_lookups(others)

    longest =
      for round <- 1..30 do
        if round <= 20, do: restart("prod"), else: kill("prod")
        await_node("prod")
        longest = assert_none_failed(lookups, "round #{round}")
        Logger.info("round #{round}: #{longest} ms")
        assert {round, sockets(others)} == {round, sockets}
        longest
      end

    assert Map.delete(creations("prod"), "prod") == Map.delete(creations, "prod")
    asked = stop_lookups(lookups)
    {restarts, kills} = Enum.split(longest, 20)
    figure("20 restarts, 10 kills: #{asked} lookups, 0 refused, 0 missing; 21 sockets and creations as before")
    figure("the longest lookup #{Enum.max(restarts)} ms over a restart, #{Enum.max(kills)} ms over a kill")
  end
end
