defmodule EmbeddedEpmd.HandOverTest do
  # Measures how long nobody accepts, so with EMBEDDED_EPMD_ROUNDS=full no other test runs beside it.
  use ExUnit.Case, async: not Support.Rounds.full?()

  import Support.{Registration, Rounds, Vm}

  alias EmbeddedEpmd.Boot.Client
  alias Support.{Folder, Prober, Watch}

  @moduletag timeout: 600_000

  @loopback {127, 0, 0, 1}

  setup do
    %{port: free_port()}
  end

  test "the owner goes again and again, and no stock node and no C node notices", %{port: port} do
    [owner, standby] = pair(port)
    names = for _ <- 1..20, do: unique("stock")
    stock = start_stock_together(names, port)
    c_node = unique("cnode")
    c_pid = start_c_node(c_node, port)
    found = for name <- [c_node | names], do: {name, ask(name, port)}
    pids = [c_pid | Enum.map(stock, &pid/1)]
    sockets = links(pids, port)
    assert Enum.all?(sockets, fn {_, links} -> length(links) == 1 end)

    prober = Prober.start(found, port, 500)

    {_, times} =
      Enum.reduce(1..rounds(10, 60), {[owner, standby], []}, fn round, {[owner, standby], times} ->
        how = if rem(round, 2) == 0, do: :kill, else: :stop
        before = dump(port)
        mark = Prober.mark(prober)
        go(how, owner)
        eventually(fn -> role(standby.vm) == :serving end)
        assert dump(port) == without(before, owner.name)
        longest = Prober.longest_since(prober, mark)
        failed = Prober.failed_since(prober, mark)
        # A kill fails the lookups that the owner had accepted and not answered: at most one, unless the machine is
        # busy.
        assert length(failed) <= %{stop: 0, kill: rounds(500, 1)}[how], "#{how}: #{inspect(failed)}"
        assert Enum.all?(failed, &match?({_name, {:error, :noport}}, &1)), "#{how}: #{inspect(failed)}"
        # What lookups take while nobody goes.
        mark = Prober.mark(prober)
        next = start_member(port)
        await_standby(standby, next)
        without = Prober.longest_since(prober, mark)
        {[standby, next], [{how, longest, without, length(failed)} | times]}
      end)

    assert links(pids, port) == sockets
    %{asked: asked, failed: failed} = Prober.stop(prober)
    assert asked > rounds(500, 5_000)

    for how <- [:stop, :kill] do
      longest = for {^how, longest, _, _} <- times, do: longest / 1_000
      without = for {^how, _, without, _} <- times, do: without / 1_000
      lost = Enum.sum(for {^how, _, _, lost} <- times, do: lost)
      assert length(longest) == rounds(5, 30)

      IO.puts(
        "#{how} of the owner, #{length(longest)} times: the slowest lookup took #{median(longest)} ms in the median, " <>
          "#{Enum.max(longest)} at worst; #{lost} failed; #{median(without)} ms while nobody goes"
      )

      # On a busy machine any lookup takes long.
      assert median(longest) < limit(20) + rounds(median(without), 0)
    end

    IO.puts("#{asked} lookups in all, #{length(failed)} failed; 21 connections are the same as before")
  end

  test "two VMs hand over to each other again and again, and nothing leaks", %{port: port} do
    members = pair(port)
    {node, _} = register("witness", port)
    swap = fn members, times -> Enum.reduce(1..times, members, fn _, members -> swap(members, port) end) end
    # The first rounds allocate what is kept for the life of the VM.
    members = swap.(members, rounds(50, 100))
    before = Map.new(members, &{&1.pid, usage(&1)})
    members = swap.(members, rounds(100, 1_000))

    for member <- members do
      {before, after_} = {before[member.pid], usage(member)}

      IO.puts("#{member.name}, before and after #{rounds(100, 1_000)} changes: #{inspect(before)}, #{inspect(after_)}")
      assert_in_delta before.descriptors, after_.descriptors, 4
      assert before.threads == after_.threads
      assert after_.memory - before.memory < 4 * 1024, "kB of memory"
    end

    assert :gen_tcp.recv(node, 0, 0) == {:error, :timeout}
    assert ask("witness", port) == {:port, 4711, 6}
  end

  test "who stands by is told; the next one takes its place, and a setting switches it off", %{port: port} do
    [owner, standby] = pair(port)
    third = start_member(port)
    eventually(fn -> length(call(owner.vm, EmbeddedEpmd, :status).standbys) == 2 end)
    fourth = start_member(port)
    refute call(fourth.vm, EmbeddedEpmd, :status).stands_by
    told = for member <- [standby, third], do: %{name: member.name, pid: String.to_integer(member.pid)}
    assert %{standbys: ^told} = call(owner.vm, EmbeddedEpmd, :status)
    kill(fourth.vm)
    assert call(standby.vm, EmbeddedEpmd, :status).stands_by

    assert Enum.any?(
             call(owner.vm, EmbeddedEpmd, :examine),
             &(&1.what =~ "#{standby.name} (pid #{standby.pid}) stands by")
           )

    assert Enum.any?(call(standby.vm, EmbeddedEpmd, :examine), &(&1.what =~ "stands by for"))

    assert call(owner.vm, EmbeddedEpmd, :examine)
           |> Enum.reject(&(&1.status == :ok))
           |> Enum.filter(&(&1.what =~ "owned")) == []

    kill(standby.vm)
    eventually(fn -> call(owner.vm, EmbeddedEpmd, :status).standbys == tl(told) end)

    {:ok, server} = call(owner.vm, EmbeddedEpmd.Boot.Lifecycle, :server)
    off = call(owner.vm, EmbeddedEpmd.Boot.Config, :load, [[hand_over: false]])
    {:ok, :ok} = call(owner.vm, EmbeddedEpmd.Native, :configure, [server, off])
    eventually(fn -> call(owner.vm, EmbeddedEpmd, :status).standbys == [] end)
    eventually(fn -> not call(third.vm, EmbeddedEpmd, :status).stands_by end)
    eventually(fn -> listeners(port) == [owner.pid] end)
    assert role(third.vm) == :joined

    {:ok, :ok} = call(owner.vm, EmbeddedEpmd.Native, :configure, [server, %{off | hand_over: true}])
    await_standby(owner, third)
  end

  test "a standby whose node registers over TCP is told by its name", %{port: port} do
    owner = start_member(port)
    # As `:peer` starts a node: OTP's client has registered it before our application starts.
    name = unique("peer")
    stock = start_stock(name, port)
    supervise(stock)
    await_standby(owner, %{name: name, vm: stock})
    pid = pid(stock)
    assert Enum.any?(call(owner.vm, EmbeddedEpmd, :examine), &(&1.what =~ "#{name} (pid #{pid}) stands by"))
  end

  @tag skip: System.cmd("id", ["-u"]) != {"0\n", 0} && "only root makes a PID namespace without a user namespace"
  test "a standby in a PID namespace that is not visible has no number", %{port: port} do
    trusted = [flags: ["-embedded_epmd", "hand_over", ~s([{users,["root"]}])]]

    for {is_visible, exec} <- [{true, []}, {false, [exec: exec(~w(unshare --pid --fork --kill-child erl))]}] do
      port = if is_visible, do: port, else: free_port()
      owner = start_member(port, trusted ++ exec)
      call(owner.vm, Watch, :start)
      :ok = call(owner.vm, Watch, :log)
      standby = start_member(port, trusted)
      await_standby(owner, standby)
      expected = if is_visible, do: String.to_integer(standby.pid)
      assert [%{name: standby.name, pid: expected}] == call(owner.vm, EmbeddedEpmd, :status).standbys
      shown = if is_visible, do: "#{standby.name} (pid #{standby.pid}) stands by", else: "#{standby.name} stands by"
      assert Enum.any?(call(owner.vm, EmbeddedEpmd, :examine), &String.starts_with?(&1.what, shown))
      logged = if is_visible, do: "#{standby.name}, process #{standby.pid}", else: standby.name
      eventually(fn -> Enum.any?(call(owner.vm, Watch, :seen).logged, &match?({_, _, %{standby: ^logged}}, &1)) end)
    end
  end

  test "a standby that hangs is dropped, and keeps nobody from the port", %{port: port} do
    [owner, standby] = pair(port)
    signal(standby.vm, standby.pid, "STOP")
    on_exit(fn -> System.cmd("kill", ["-9", standby.pid], stderr_to_stdout: true) end)

    # Meanwhile the owner serves without delay.
    for n <- 1..200 do
      {socket, _} = register("churn#{n}", port)
      assert ask("churn#{n}", port) == {:port, 4711, 6}
      :gen_tcp.close(socket)
    end

    eventually(fn -> call(owner.vm, EmbeddedEpmd, :status).standbys == [] end)
    assert ask(owner.name, port) == {:port, distribution_port(owner), 6}
    third = start_member(port)
    await_standby(owner, third)
    {witness, _} = register("witness", port)
    kill(third.vm)
    eventually(fn -> call(owner.vm, EmbeddedEpmd, :status).standbys == [] end)
    kill(owner.vm)
    # The owner has reopened its listeners since it dropped the standby, so the standby's copies do not hold the port.
    fresh = start_member(port)
    assert role(fresh.vm) == :serving
    # The standby that hangs has no copy of this connection, which came later, so it ended with the owner.
    assert :gen_tcp.recv(witness, 0, 5_000) == {:error, :closed}
    signal(standby.vm, standby.pid, "CONT")
    eventually(fn -> role(standby.vm) == :joined end)
    await_standby(fresh, standby)
    assert Enum.sort(for(%{name: name} <- stock_names(port), do: name)) == Enum.sort([fresh.name, standby.name])
  end

  test "a standby that is out of descriptors says so, drops the role, and joins and serves as before", %{port: port} do
    owner = start_member(port)
    # With the largest share the standby runs out of descriptors before the share is used up.
    standby = start_member(port, flags: ~w(-embedded_epmd descriptor_share 95))
    await_standby(owner, standby)
    call(standby.vm, Watch, :start)
    :ok = call(standby.vm, Watch, :log)
    nodes = for n <- 1..40, do: register("early#{n}", port)
    {_, 0} = System.cmd("prlimit", ["--pid", standby.pid, "--nofile=#{descriptors(standby.pid) + 20}"])
    more = for n <- 1..40, do: register("late#{n}", port)
    eventually(fn -> call(owner.vm, EmbeddedEpmd, :status).standbys == [] end)
    eventually(fn -> descriptors(standby.pid) < 80 end)
    refute call(standby.vm, EmbeddedEpmd, :status).stands_by

    eventually(fn ->
      Enum.any?(call(standby.vm, Watch, :seen).logged, fn {_, text, _} -> text =~ "no descriptors" end)
    end)

    assert length(stock_names(port)) == 82
    kill(owner.vm)
    eventually(fn -> role(standby.vm) == :serving end)
    for {socket, _} <- nodes ++ more, do: assert(:gen_tcp.recv(socket, 0, 5_000) == {:error, :closed})
    assert [%{name: name}] = stock_names(port)
    assert name == standby.name
  end

  ## The host

  defp pair(port) do
    owner = start_member(port)
    standby = start_member(port)
    await_standby(owner, standby)
    [owner, standby]
  end

  defp start_member(port, options \\ []) do
    name = unique("n")
    [vm] = start_together([name], port, options)
    supervisor = supervise(vm)
    %{name: name, vm: vm, pid: pid(vm), supervisor: supervisor}
  end

  defp exec([program | arguments]),
    do: {String.to_charlist(System.find_executable(program)), Enum.map(arguments, &String.to_charlist/1)}

  defp await_standby(owner, standby) do
    eventually(fn ->
      match?(%{standbys: [%{name: name} | _]} when name == standby.name, call(owner.vm, EmbeddedEpmd, :status))
    end)

    eventually(fn -> call(standby.vm, EmbeddedEpmd, :status).stands_by end)
  end

  defp median(times), do: times |> Enum.sort() |> Enum.at(div(length(times), 2))

  defp role(vm), do: call(vm, EmbeddedEpmd, :status).role

  defp go(:kill, owner), do: kill(owner.vm)

  defp go(:stop, owner) do
    Process.unlink(owner.vm)
    call(owner.vm, :init, :stop)
  end

  # Stops the owner's server in order, and starts it again.
  defp swap([owner, standby], port) do
    :ok = call(owner.vm, :supervisor, :terminate_child, [owner.supervisor, EmbeddedEpmd])
    :ok = call(owner.vm, EmbeddedEpmd.Boot.Lifecycle, :stop)
    eventually(fn -> role(standby.vm) == :serving end)
    {:ok, _} = call(owner.vm, :supervisor, :restart_child, [owner.supervisor, EmbeddedEpmd])
    await_standby(standby, owner)
    assert ask("witness", port) == {:port, 4711, 6}
    [standby, owner]
  end

  defp usage(%{pid: pid, vm: vm}) do
    call(vm, :erlang, :garbage_collect)
    [_, memory] = Regex.run(~r/^VmRSS:\s+(\d+)/m, File.read!("/proc/#{pid}/status"))

    %{
      descriptors: descriptors(pid),
      threads: length(File.ls!("/proc/#{pid}/task")),
      memory: String.to_integer(memory)
    }
  end

  defp start_stock_together(names, port) do
    tag = make_ref()

    vms =
      for name <- names, do: start_stock(name, port, wait_boot: {self(), tag}, flags: ~w(-kernel logger_level error))

    for vm <- vms, do: assert_receive({^tag, {:started, _, ^vm}}, 60_000)
    vms
  end

  # Starts a C node, which never registers again.
  defp start_c_node(name, port) do
    folder = Folder.new("cnode")
    # The code server does not know this application, since it has no modules.
    [lib] = Path.wildcard("#{:code.root_dir()}/lib/erl_interface-*")
    program = Path.join(folder, "cnode")
    source = Path.expand("support/cnode.c", __DIR__)
    arguments = ["-o", program, source, "-I#{lib}/include", "-L#{lib}/lib", "-lei", "-lpthread"]
    {text, status} = System.cmd("cc", arguments, stderr_to_stdout: true)
    assert status == 0, text
    environment = [{~c"ERL_EPMD_PORT", String.to_charlist("#{port}")}]
    node = Port.open({:spawn_executable, program}, [:binary, args: [name], env: environment])
    assert_receive {^node, {:data, "registered\n"}}, 10_000
    {:os_pid, pid} = Port.info(node, :os_pid)
    "#{pid}"
  end

  # The connections of each process to the port: local addresses and inodes.
  defp links(pids, port) do
    sockets = sockets(~w(--processes --extended state established), "dport = :#{port}")

    for pid <- pids do
      # The kernel may list a connection twice if others come and go meanwhile.
      links =
        for socket <- sockets, socket =~ "pid=#{pid},", uniq: true do
          [_, _, local | _] = String.split(socket)
          [_, inode] = Regex.run(~r/ ino:(\d+)/, socket)
          {local, inode}
        end

      {pid, links}
    end
  end

  ## What is asked

  defp ask(name, port), do: Client.port(name, @loopback, port, 5_000)

  defp distribution_port(member) do
    {:ok, port} = call(member.vm, :erl_epmd, :names, [@loopback]) |> find(member.name)
    port
  end

  defp find({:ok, names}, name),
    do: {:ok, Enum.find_value(names, fn {n, port} -> List.to_string(n) == name && port end)}

  # The reply to DUMP, without the numbers of descriptors.
  defp dump(port) do
    {:ok, socket} = :gen_tcp.connect(@loopback, port, [:binary, active: false])
    :ok = :gen_tcp.send(socket, <<1::16, ?d>>)
    dumped = receive_all(socket, "")
    :gen_tcp.close(socket)
    Regex.replace(~r/fd = -?\d+/, dumped, "fd = N")
  end

  defp receive_all(socket, received) do
    case :gen_tcp.recv(socket, 0, 5_000) do
      {:ok, bytes} -> receive_all(socket, received <> bytes)
      {:error, :closed} -> received
    end
  end

  # The dump after this node has gone.
  defp without(dump, name) do
    [line] = Regex.run(~r/active name     <#{name}> at port \d+, fd = N\n\0/, dump)
    [_, port] = Regex.run(~r/at port (\d+)/, line)
    String.replace(dump, line, "") <> "old/unused name <#{name}>, port = #{port}, fd = N \n\0"
  end
end
