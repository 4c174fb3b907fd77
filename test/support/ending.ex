defmodule Support.Ending do
  @moduledoc """
  What ends a service, with the same promise each time: no lookup fails, and no stock node registers again.
  """

  import ExUnit.Assertions
  import Support.{Container, Deadline, Lookups, Service, StockNode}

  @doc "Each of these comes over the service that serves the port."
  def end_by(:restart, name), do: restart(name)

  def end_by(:stop, name) do
    stop(name)
    start(name)
  end

  def end_by(:crash, name), do: inside(~w(kill -SEGV #{main_pid(name)}))
  def end_by(:halt, name), do: rpc(name, "spawn(fn -> Process.sleep(50); :erlang.halt(1) end)")
  def end_by(:kill, name), do: kill(name)

  def end_by(:memory, name),
    do: rpc(name, ~S|spawn(fn -> for n <- 1..99, do: {n, :binary.copy("x", 20_000_000)} end)|)

  def end_by(:deploy, name) do
    inside(~w(ln -sfnT /opt/made/newer/#{name} /opt/#{name}))
    restart(name)
    await_node(name)
    assert rpc(name, "IO.puts(Application.spec(:greeter, :vsn))") == "0.2.0"
  end

  @doc """
  Has all of it come over what runs, for which so many stand by, while the stock nodes are looked up. Returns what was
  found, with the longest lookup for each.
  """
  def live_through(stock, standbys, endings) do
    before = sockets(stock)
    lookups = start_lookups(stock)

    found =
      for ending <- endings do
        serving = owner()
        await_standbys(serving, standbys)
        pid = main_pid(serving)
        end_by(ending, serving)
        assert_within(30, main_pid(serving) not in ["0", pid])
        await_node(serving)
        looked_up = looked_up(lookups)
        # A process that has no memory is slow to answer those whom it has accepted, and their sockets end with it.
        allowed = if ending == :memory, do: 2, else: 0
        assert looked_up.failed <= allowed, "#{ending}: #{looked_up.failed} lookups failed: #{looked_up.wrong}"
        assert {ending, sockets(stock)} == {ending, before}
        {ending, looked_up}
      end

    asked = stop_lookups(lookups)
    failed = Enum.sum(for {_, looked_up} <- found, do: looked_up.failed)
    longest = Enum.map_join(found, ", ", fn {ending, looked_up} -> "#{ending} #{looked_up.longest} ms" end)
    "#{asked} lookups, #{failed} failed, #{length(stock)} sockets as before; the longest: #{longest}"
  end
end
