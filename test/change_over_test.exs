defmodule EmbeddedEpmd.ChangeOverTest do
  # Measures how long a change-over takes, so with EMBEDDED_EPMD_ROUNDS=full no other test runs beside it.
  use ExUnit.Case, async: not Support.Rounds.full?()

  import Support.{Host, Rounds, Vm}

  alias EmbeddedEpmd.Boot.Client

  setup do
    %{port: free_port()}
  end

  for {how, times, options} <- [{"without a standby", rounds(5, 50), alone()}, {"with a standby", rounds(5, 15), []}] do
    @how how
    @times times
    @options options

    test "the owner of ten VMs is killed again and again, #{how}: one new owner, everybody found, nobody disturbed", %{
      port: port
    } do
      options = @options
      host = start_host(10, port, options)

      {_, times} =
        Enum.reduce(1..@times, {host, []}, fn _, {host, times} ->
          {owner, rest} = Map.pop!(host, owner(host))
          watch(rest)
          microseconds = until_all_found(rest, port, fn -> signal(owner.vm, owner.pid, "KILL") end)
          assert_whole(rest, port)
          assert_undisturbed(rest, owner.name)

          [vm] = start_together([owner.name], port, options)
          host = Map.merge(rest, members([vm], [owner.name]))
          assert_whole(host, port)
          {host, [microseconds | times]}
        end)

      report("kill -9 of the owner, ten VMs, #{@times} times, #{@how}", times)
    end
  end

  test "the owner of ten VMs stops in order, again and again", %{port: port} do
    host = start_host(10, port, alone())

    {_, times} =
      Enum.reduce(1..rounds(4, 9), {host, []}, fn _, {host, times} ->
        {owner, rest} = Map.pop!(host, owner(host))
        watch(rest)

        # The owner may serve on for a while. What counts is the time in which not all names were found.
        finder = Task.async(fn -> longest_gap(Map.keys(rest), port) end)
        Process.unlink(owner.vm)
        call(owner.vm, :init, :stop)
        eventually(fn -> owner.pid not in listeners(port) end)
        assert_whole(rest, port)
        send(finder.pid, :stop)
        microseconds = Task.await(finder, 30_000)

        assert_undisturbed(rest, owner.name)
        {rest, [microseconds | times]}
      end)

    report("orderly stop of the owner, ten VMs at first, #{length(times)} times", times)
  end

  test "ten VMs that start at the same instant: one owner, whatever the race", %{port: port} do
    for _ <- 1..rounds(1, 3) do
      host = start_host(10, port, alone())
      assert_whole(host, port)
      for {_, member} <- host, do: Process.unlink(member.vm)
      for {_, member} <- host, do: :peer.stop(member.vm)
      eventually(fn -> stock_names(port) == :none end)
    end
  end

  for {what, child} <- [{"EmbeddedEpmd", EmbeddedEpmd.Server}, {"another child", :sibling}] do
    test "the owner's supervisor gives up for the sake of #{what}: it serves on", %{port: port} do
      host = start_host(3, port, alone())
      owner = Map.fetch!(host, owner(host))
      supervisor = supervise(owner.vm, [], max_restarts: 2)
      watch(host)
      kill_until_given_up(owner.vm, supervisor, unquote(child))
      assert_undisturbed(host, nil)
      assert_whole(host, port)
      assert role(owner.vm) == :serving
      # The next supervised process finds the same server.
      supervise(owner.vm)
      assert call(owner.vm, EmbeddedEpmd, :status).changes == 1
    end
  end

  test "separate addresses are separate hosts, also inside a VM", %{port: port} do
    on = fn host -> [host: host] ++ alone() end
    [a2, b2] = for name <- ["a", "b"], do: start_ours(name, port, on.("127.0.0.2"))
    [a3, c3] = for name <- ["a", "c"], do: start_ours(name, port, on.("127.0.0.3"))

    assert [:serving, :joined, :serving, :joined] == for(vm <- [a2, b2, a3, c3], do: role(vm))

    for vm <- [a2, b2, a3, c3] do
      assert %{"a" => a2_port, "b" => _} = listing(vm, {127, 0, 0, 2})
      assert %{"a" => a3_port, "c" => _} = listing(vm, {127, 0, 0, 3})
      assert a2_port != a3_port

      for {name, ip, expected} <- [
            {~c"a", {127, 0, 0, 2}, {:port, a2_port, 6}},
            {~c"a", {127, 0, 0, 3}, {:port, a3_port, 6}},
            {~c"c", {127, 0, 0, 2}, :noport},
            {~c"b", {127, 0, 0, 3}, :noport}
          ] do
        assert call(vm, EmbeddedEpmd.Discovery, :port_please, [name, ip]) == expected
      end
    end

    assert call(b2, :net_adm, :ping, [:"c@127.0.0.3"]) == :pong

    kill(a2)
    eventually(fn -> role(b2) == :serving end)
    assert [:serving, :joined] == for(vm <- [a3, c3], do: role(vm))
    assert %{"b" => _} = names = listing(c3, {127, 0, 0, 2})
    assert map_size(names) == 1
  end

  ## Beside the C daemon

  test "we join a C daemon, take its port when it is killed, and stock nodes come back to us", %{port: port} do
    daemon = start_daemon(port)
    names = for _ <- 1..2, do: unique("n")
    stock_name = unique("stock")
    stock = start_stock(stock_name, port)
    host = names |> start_together(port, alone()) |> members(names)
    assert [:joined, :joined] == for({_, member} <- host, do: role(member.vm))
    [first | _] = Map.values(host)
    assert call(first.vm, :net_adm, :ping, [:"#{stock_name}@127.0.0.1"]) == :pong

    {_, 0} = System.cmd("kill", ["-9", daemon])
    killed = System.monotonic_time(:millisecond)
    eventually(fn -> found?(names, port) end)
    took = System.monotonic_time(:millisecond) - killed
    # A name is found a moment before its VM has read that it was granted.
    eventually(fn -> [:joined, :serving] == Enum.sort(for({_, member} <- host, do: role(member.vm))) end)

    # OTP's client registers again after two seconds, and every two seconds from then on.
    eventually(fn -> found?([stock_name | names], port) end)
    stock_took = System.monotonic_time(:millisecond) - killed
    assert stock_took < limit(4_000)
    IO.puts("C daemon killed: our nodes found after #{took} ms, a stock node after #{stock_took} ms")

    assert call(stock, :net_adm, :ping, [:"#{hd(names)}@127.0.0.1"]) == :pong

    # A daemon that comes late finds the port taken, and leaves.
    owner = owner(host)
    System.cmd("epmd", ["-port", "#{port}", "-address", "127.0.0.1"], stderr_to_stdout: true)
    assert host[owner].pid in listeners(port)
    assert length(stock_names(port)) == 3
  end

  ## What is asked of a host

  defp kill_until_given_up(vm, supervisor, child) do
    eventually(fn ->
      pid = call(vm, :erlang, :whereis, [child])
      if is_pid(pid), do: call(vm, :erlang, :exit, [pid, :kill])
      not call(vm, :erlang, :is_process_alive, [supervisor])
    end)
  end

  defp found?(names, port) do
    Enum.all?(names, &match?({:port, _, _}, Client.port(&1, {127, 0, 0, 1}, port, 1_000)))
  end

  # Runs the action; returns the microseconds from its start until all names are found over TCP.
  defp until_all_found(host, port, action) do
    names = Map.keys(host)
    started = System.monotonic_time(:microsecond)
    action.()
    await_found(names, port, started + 15_000_000)
    System.monotonic_time(:microsecond) - started
  end

  defp await_found(names, port, deadline) do
    unless found?(names, port) do
      assert System.monotonic_time(:microsecond) < deadline, "not all of #{inspect(names)} were found in 15 seconds"
      await_found(names, port, deadline)
    end
  end

  # Looks all names up again and again until told to stop; returns the longest time between two complete answers. Where
  # the time is checked there is no pause, which would take a processor from the tests beside this one.
  defp longest_gap(names, port, last \\ System.monotonic_time(:microsecond), longest \\ 0) do
    found = found?(names, port)
    now = System.monotonic_time(:microsecond)

    receive do
      :stop when found -> max(longest, now - last)
    after
      rounds(5, 0) ->
        if found,
          do: longest_gap(names, port, now, max(longest, now - last)),
          else: longest_gap(names, port, last, longest)
    end
  end

  defp report(what, times) do
    sorted = Enum.sort(times)
    median = Enum.at(sorted, div(length(sorted), 2)) / 1_000
    worst = List.last(sorted) / 1_000
    IO.puts("#{what}: all survivors found after a median of #{median} ms, at worst #{worst} ms")
    assert median < limit(100)
    assert worst < limit(1_000)
  end

  defp listing(vm, ip) do
    {:ok, names} = call(vm, EmbeddedEpmd.Discovery, :names, [ip])
    Map.new(names, fn {name, port} -> {List.to_string(name), port} end)
  end
end
