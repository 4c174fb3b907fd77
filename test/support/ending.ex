defmodule Support.Ending do
  @moduledoc """
  What ends a service, with the same promise each time: no lookup fails, and no stock node registers again.
  """

  import ExUnit.Assertions
  import Support.{Bystanders, Container, Deadline, Service}

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
    restart_node(name)
    assert rpc(name, "IO.puts(Application.spec(:greeter, :vsn))") == "0.2.0"
  end

  @doc "Has all of it come over what runs, for which so many stand by. Returns what was found, as a figure."
  def live_through(stock, standbys, endings) do
    watched = watch(stock)

    found =
      for ending <- endings do
        serving = owner()
        await_standbys(serving, standbys)
        pid = main_pid(serving)
        end_by(ending, serving)
        assert_within(30, main_pid(serving) not in ["0", pid])
        await_node(serving)
        # A process that has no memory is slow to answer those whom it has accepted, and their sockets end with it.
        Map.put(assert_undisturbed(watched, ending, if(ending == :memory, do: 2, else: 0)), :ending, ending)
      end

    failed = Enum.sum(for %{failed: failed} <- found, do: failed)
    longest = Enum.map_join(found, ", ", &"#{&1.ending} #{&1.longest} ms")
    "#{stop_watching(watched)} lookups, #{failed} failed, #{length(stock)} sockets as before; the longest: #{longest}"
  end
end
