defmodule EmbeddedEpmd.ChangeOverTest do
  # Alone on the machine: it shows how long a change-over takes.
  use ExUnit.Case, async: false

  import EmbeddedEpmd.Vm

  alias EmbeddedEpmd.{Client, Watch}

  @moduletag timeout: 300_000

  # What happens where nobody can stand by; the hand-over has tests of its own.
  @alone [flags: ~w(-kernel logger_level error -embedded_epmd hand_over false)]

  setup do
    %{port: free_port()}
  end

  for {how, times, options} <- [{"without a standby", 50, @alone}, {"with a standby", 15, []}] do
    @how how
    @times times
    @options options

    test "the owner of ten VMs is killed #{times} times, #{how}: one new owner, everybody found, nobody disturbed", %{
      port: port
    } do
      options = @options
      host = for _ <- 1..10, do: unique("n")
      host = host |> start_together(port, options) |> members(host)

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

  test "the owner of ten VMs stops in order, ten times", %{port: port} do
    names = for _ <- 1..10, do: unique("n")
    host = names |> start_together(port, @alone) |> members(names)

    {_, times} =
      Enum.reduce(1..9, {host, []}, fn _, {host, times} ->
        {owner, rest} = Map.pop!(host, owner(host))
        watch(rest)

        # It may serve for a while yet; what counts is how long not everybody was found.
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

    report("orderly stop of the owner, ten VMs to one", times)
  end

  test "ten VMs that start at the same instant: one owner, whatever the race", %{port: port} do
    for _ <- 1..3 do
      names = for _ <- 1..10, do: unique("n")
      host = names |> start_together(port, @alone) |> members(names)
      assert_whole(host, port)
      for {_, member} <- host, do: Process.unlink(member.vm)
      for {_, member} <- host, do: :peer.stop(member.vm)
      eventually(fn -> stock_names(port) == :none end)
    end
  end

  test "an owner that hangs is reported within 15 seconds, and followed when it is killed", %{port: port} do
    names = for _ <- 1..3, do: unique("n")
    host = names |> start_together(port, @alone) |> members(names)
    for {_, member} <- host, do: supervise(member.vm)
    {owner, rest} = Map.pop!(host, owner(host))

    signal(owner.vm, owner.pid, "STOP")
    on_exit(fn -> System.cmd("kill", ["-9", owner.pid], stderr_to_stdout: true) end)
    stopped = System.monotonic_time(:millisecond)

    for {_, member} <- rest do
      eventually(fn -> not call(member.vm, EmbeddedEpmd, :status).owner_answers end)
      assert System.monotonic_time(:millisecond) - stopped < 15_000
      assert %{role: :joined, names: nil} = call(member.vm, EmbeddedEpmd, :status)
    end

    signal(owner.vm, owner.pid, "KILL")
    assert_whole(rest, port)
    for {_, member} <- rest, do: assert(call(member.vm, EmbeddedEpmd, :status).owner_answers)
  end

  test "an owner that hangs for a moment stays the owner", %{port: port} do
    names = for _ <- 1..2, do: unique("n")
    host = names |> start_together(port, @alone) |> members(names)
    {owner, rest} = Map.pop!(host, owner(host))
    [other] = Map.values(rest)

    signal(owner.vm, owner.pid, "STOP")
    on_exit(fn -> System.cmd("kill", ["-9", owner.pid], stderr_to_stdout: true) end)
    eventually(fn -> not call(other.vm, EmbeddedEpmd, :status).owner_answers end)
    signal(owner.vm, owner.pid, "CONT")
    eventually(fn -> call(other.vm, EmbeddedEpmd, :status).owner_answers end)
    assert call(other.vm, EmbeddedEpmd, :status).changes == 1
    assert_whole(host, port)
  end

  for {what, child} <- [{"EmbeddedEpmd", EmbeddedEpmd.Server}, {"another child", :sibling}] do
    test "the owner's supervisor gives up for the sake of #{what}: it serves on", %{port: port} do
      names = for _ <- 1..3, do: unique("n")
      host = names |> start_together(port, @alone) |> members(names)
      owner = Map.fetch!(host, owner(host))
      supervisor = supervise(owner.vm, [], max_restarts: 2)
      watch(host)
      kill_until_given_up(owner.vm, supervisor, unquote(child))
      assert_undisturbed(host, nil)
      assert_whole(host, port)
      assert role(owner.vm) == :serving
      # Whoever looks after it next finds it as it was.
      supervise(owner.vm)
      assert call(owner.vm, EmbeddedEpmd, :status).changes == 1
    end
  end

  test "separate addresses are separate hosts, also inside a VM", %{port: port} do
    on = fn host -> [host: host] ++ @alone end
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

  test "a name that somebody else has got meanwhile is refused, and registered when it is free", %{port: port} do
    name = unique("twice")
    owner = start_ours(unique("owner"), port, @alone)
    vm = start_ours(name, port, @alone)
    logged = start_log(vm)
    creation = call(vm, :erlang, :system_info, [:creation])

    pid = pid(vm)
    signal(vm, pid, "STOP")
    on_exit(fn -> System.cmd("kill", ["-9", pid], stderr_to_stdout: true) end)
    kill(owner)
    eventually(fn -> stock_names(port) == :none end)
    usurper = start_ours(name, port, @alone)
    signal(vm, pid, "CONT")

    eventually(fn -> Enum.any?(logged.(), &refusal?/1) end)
    assert role(vm) == :searching
    assert [%{name: ^name}] = stock_names(port)
    :peer.stop(usurper)
    eventually(fn -> role(vm) == :serving end)
    assert [%{name: ^name}] = stock_names(port)
    assert call(vm, :erlang, :system_info, [:creation]) == creation
  end

  test "a refusal is told once, however often it comes, and each refused connection is closed", %{port: port} do
    # This test is the owner: it grants the name once, and refuses it from then on.
    {:ok, listener} = :gen_tcp.listen(port, [:binary, ip: {127, 0, 0, 1}, active: false, reuseaddr: true])
    booting = Task.async(fn -> grant(listener) end)
    vm = start_ours(unique("refused"), port, @alone)
    link = Task.await(booting, 30_000)
    logged = start_log(vm)

    :gen_tcp.close(link)
    for _ <- 1..4, do: refuse(listener)
    assert [{:error, _, report}] = Enum.filter(logged.(), &refusal?/1)
    assert report.name == call(vm, :erlang, :node) |> to_string() |> String.split("@") |> hd()
    assert call(vm, :erlang, :system_info, [:creation]) == 77

    :gen_tcp.close(listener)
    eventually(fn -> role(vm) == :serving end)
    assert length(Enum.filter(logged.(), &refusal?/1)) == 1
  end

  ## Beside the C daemon

  test "we join a C daemon, take its port when it is killed, and stock nodes come back to us", %{port: port} do
    daemon = start_daemon(port)
    names = for _ <- 1..2, do: unique("n")
    stock_name = unique("stock")
    stock = start_stock(stock_name, port)
    host = names |> start_together(port, @alone) |> members(names)
    assert [:joined, :joined] == for({_, member} <- host, do: role(member.vm))
    [first | _] = Map.values(host)
    assert call(first.vm, :net_adm, :ping, [:"#{stock_name}@127.0.0.1"]) == :pong

    {_, 0} = System.cmd("kill", ["-9", daemon])
    killed = System.monotonic_time(:millisecond)
    eventually(fn -> found?(names, port) end)
    took = System.monotonic_time(:millisecond) - killed
    assert [:joined, :serving] == Enum.sort(for({_, member} <- host, do: role(member.vm)))

    # OTP's client registers again after two seconds, and every two seconds from then on.
    eventually(fn -> found?([stock_name | names], port) end)
    stock_took = System.monotonic_time(:millisecond) - killed
    assert stock_took < 4_000
    IO.puts("C daemon killed: our nodes found after #{took} ms, a stock node after #{stock_took} ms")

    assert call(stock, :net_adm, :ping, [:"#{hd(names)}@127.0.0.1"]) == :pong

    # A daemon that comes late finds the port taken, and leaves.
    owner = owner(host)
    System.cmd("epmd", ["-port", "#{port}", "-address", "127.0.0.1"], stderr_to_stdout: true)
    assert host[owner].pid in listeners(port)
    assert length(stock_names(port)) == 3
  end

  ## What is asked of a host

  # The members of a host by name.
  defp members(vms, names) do
    for {vm, name} <- Enum.zip(vms, names), into: %{} do
      call(vm, Watch, :start)
      {name, %{vm: vm, name: name, pid: pid(vm)}}
    end
  end

  defp kill_until_given_up(vm, supervisor, child) do
    eventually(fn ->
      pid = call(vm, :erlang, :whereis, [child])
      if is_pid(pid), do: call(vm, :erlang, :exit, [pid, :kill])
      not call(vm, :erlang, :is_process_alive, [supervisor])
    end)
  end

  # A function that returns what the supervised process of the VM has logged.
  defp start_log(vm) do
    call(vm, Watch, :start)
    :ok = call(vm, Watch, :log)
    supervise(vm)
    fn -> call(vm, Watch, :seen).logged end
  end

  defp refusal?({_, text, _}), do: text =~ "this node's name is registered by another node"

  # Answers ALIVE2 requests (tag 120) with ALIVE2_X_RESP: the creation 77, then refusals. An accepted link stays open.
  defp grant(listener) do
    {:ok, socket} = :gen_tcp.accept(listener, 30_000)

    case :gen_tcp.recv(socket, 0, 5_000) do
      {:ok, <<_::16, 120, _::binary>>} ->
        :ok = :gen_tcp.send(socket, <<118, 0, 77::32>>)
        :ok = :gen_tcp.controlling_process(socket, hd(Process.get(:"$ancestors")))
        socket

      # Before the node has a name: does an EPMD answer here?
      {:ok, <<_::16, 122, _::binary>>} ->
        :ok = :gen_tcp.send(socket, <<119, 1>>)
        :gen_tcp.close(socket)
        grant(listener)
    end
  end

  defp refuse(listener) do
    {:ok, socket} = :gen_tcp.accept(listener, 5_000)
    {:ok, <<_::16, 120, _::binary>>} = :gen_tcp.recv(socket, 0, 5_000)
    :ok = :gen_tcp.send(socket, <<118, 1, 0::32>>)
    assert :gen_tcp.recv(socket, 0, 5_000) == {:error, :closed}
  end

  # The C daemon, in the foreground of a port that ends it with the test.
  defp start_daemon(port) do
    sh = System.find_executable("sh")
    command = "exec epmd -port #{port} -address 127.0.0.1"
    daemon = Port.open({:spawn_executable, sh}, [:binary, :stderr_to_stdout, args: ["-c", command]])
    {:os_pid, pid} = Port.info(daemon, :os_pid)
    on_exit(fn -> System.cmd("kill", ["-9", "#{pid}"], stderr_to_stdout: true) end)
    eventually(fn -> stock_names(port) == [] end)
    "#{pid}"
  end

  defp role(vm), do: call(vm, EmbeddedEpmd, :status).role

  # The name of the one owner.
  defp owner(host) do
    eventually(fn ->
      case for({name, %{vm: vm}} <- host, role(vm) == :serving, do: name) do
        [owner] -> owner
        _ -> nil
      end
    end)
  end

  defp found?(names, port) do
    Enum.all?(names, &match?({:port, _, _}, Client.port(&1, {127, 0, 0, 1}, port, 1_000)))
  end

  # Does something, and tells how long it takes from then on until everybody is found over TCP.
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

  # Asks for everybody without a pause until told to stop; the longest time from one complete answer to the next.
  defp longest_gap(names, port, last \\ System.monotonic_time(:microsecond), longest \\ 0) do
    found = found?(names, port)
    now = System.monotonic_time(:microsecond)

    receive do
      :stop when found -> max(longest, now - last)
    after
      0 ->
        if found,
          do: longest_gap(names, port, now, max(longest, now - last)),
          else: longest_gap(names, port, last, longest)
    end
  end

  # One owner, which alone listens, and which knows everybody and nobody else.
  defp assert_whole(host, port) do
    names = Enum.sort(Map.keys(host))
    eventually(fn -> Enum.sort(for(%{name: name} <- listed(port), do: name)) == names end)
    owner = owner(host)
    for {name, %{vm: vm}} <- host, name != owner, do: eventually(fn -> role(vm) == :joined end)
    # One that stands by has the listener as well, a moment before that is told.
    eventually(fn ->
      standby = call(host[owner].vm, EmbeddedEpmd, :status).standby
      listeners(port) -- [standby && "#{standby.pid}"] == [host[owner].pid]
    end)
  end

  defp listed(port), do: with(:none <- stock_names(port), do: [])

  defp watch(host) do
    names = Map.keys(host)
    for {_, %{vm: vm}} <- host, do: :ok = call(vm, Watch, :watch_names, [names])
  end

  defp assert_undisturbed(host, gone) do
    for {name, %{vm: vm}} <- host do
      # Everybody is looked up at least once after the change-over.
      before = call(vm, Watch, :seen).found
      seen = eventually(fn -> (seen = call(vm, Watch, :seen)).found >= before + map_size(host) and seen end)
      assert seen.missed == [], "#{name} missed #{inspect(seen.missed)}"
      assert seen.down -- [:"#{gone}@127.0.0.1"] == [], "#{name} lost #{inspect(seen.down)}"
    end
  end

  defp report(what, times) do
    sorted = Enum.sort(times)
    median = Enum.at(sorted, div(length(sorted), 2)) / 1_000
    worst = List.last(sorted) / 1_000
    IO.puts("#{what}: all survivors found after a median of #{median} ms, at worst #{worst} ms")
    assert median < 100
    assert worst < 1_000
  end

  defp listing(vm, ip) do
    {:ok, names} = call(vm, EmbeddedEpmd.Discovery, :names, [ip])
    Map.new(names, fn {name, port} -> {List.to_string(name), port} end)
  end
end
