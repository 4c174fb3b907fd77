defmodule EmbeddedEpmd.Systemd.NeighboursTest do
  # Others on the host that want an EPMD: Debian's own daemon, RabbitMQ, ejabberd.
  use Support.ServiceCase

  require Logger

  test "Debian's epmd.socket: enabled with erlang-base; whom its daemon registers is joined, and may be taken away" do
    # bin/test-systemd disables these.
    assert String.split(inside(~w(cat /opt/made/enabled))) == List.duplicate("enabled", 4)
    start("epmd.socket")
    install("prod")
    start_nodes("prod")
    assert_within(20, role("prod") == "joined")
    # systemd has started the daemon.
    assert property("epmd.service", "ActiveState") == "active"
    install("stage")
    start_nodes("stage")
    start_stock(1)
    inside(~w(systemctl disable --quiet --now epmd.service epmd.socket))
    assert_within(20, owner())
    took = milliseconds(fn -> await_nodes(["stock1", "prod", "stage"]) end)
    figure("disable --now: prod and stage are joined, and one of them takes the port; all are found #{took} ms later")
  end

  test "a release without the library beside one with it: unknown when that stops, unless epmd.socket is kept" do
    start_and_stop_prod()
    refute found?("stage")
    said = lost_rpc("stage")
    reset()
    start("epmd.socket")
    start_and_stop_prod()
    assert_rpc("stage")
    figure("without epmd.socket #{said}; with it found")
  end

  for {unit, tool} <- [{"rabbitmq-server", "rabbitmqctl"}, {"ejabberd", "ejabberdctl"}] do
    @unit unit
    @tool tool

    test "#{unit} of Debian, in both orders: #{tool} does not fail once while the only release of ours restarts" do
      for order <- [:first, :last] do
        install("prod")
        install_drop_in("prod", guide_drop_in("prod.service.d"), "epmd")
        write_unit("epmd.socket.d/prod.conf", guide_drop_in("epmd.socket.d"))
        write_unit("epmd.service.d/prod.conf", guide_drop_in("epmd.service.d"))
        # Otherwise it is started by the first question.
        if order == :first, do: start_nodes("prod")
        start(@unit)
        await_node("prod")
        call = [@tool, "status"]
        assert_within(90, inside(call))
        refute daemon?()

        for round <- 1..3 do
          Logger.info("prod #{order}, round #{round}")
          restart = Task.async(fn -> restart("prod") end)
          # While it restarts, and after that.
          inside(call)
          Task.await(restart, :infinity)
          inside(call)
        end

        figure("6 calls of #{@tool} over 3 restarts of prod, which came #{order}, 0 failed")
        reset()
      end
    end
  end

  defp start_and_stop_prod do
    install("prod")
    install("stage", [], "stock")
    start_in_turn(["prod", "stage"])
    stop("prod")
  end
end
