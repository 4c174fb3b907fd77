defmodule EmbeddedEpmd.ServiceManagerTest do
  # A VM as a service of test/support/service_manager.c, a stand-in for systemd: socket units, and the descriptor
  # store across restarts.
  use ExUnit.Case, async: true

  import Support.Registration, only: [register: 2]
  import Support.Vm, only: [eventually: 1, free_port: 0, listening: 1, stock_names: 1, unique: 1]

  setup_all do
    program = Path.join(System.tmp_dir!(), unique("service_manager"))
    on_exit(fn -> File.rm!(program) end)
    source = Path.expand("support/service_manager.c", __DIR__)
    {_, 0} = System.cmd("cc", ["-o", program, source])
    %{manager: program}
  end

  setup do
    %{port: free_port(), name: unique("service")}
  end

  test "a VM listens on what a socket unit passes, at the unit's port, and tells its children nothing", context do
    %{port: port, name: name} = context
    # Port and addresses are not set, so those of the unit count.
    service = start(context, 0, ["app-epmd.socket=#{port}"], [{~c"ERL_EPMD_PORT", false}])
    assert eventually(fn -> names(port) == [name] end)
    assert listening(port) == ["127.0.0.1"]
    assert eventually(fn -> said?(service, "LISTEN_FDS is unset") end)
    assert eventually(fn -> said?(service, "has no descriptor store") end)

    tell(service, "t")
    assert eventually(fn -> said?(service, "ended") end)
    # The stand-in still holds the listener, so a lookup waits.
    asked = Task.async(fn -> stock_names(port) end)
    tell(service, "s")
    assert is_list(Task.await(asked, 30_000))
    assert eventually(fn -> names(port) == [name] end)
  end

  # Of several the numbers must stay, so only those of ours that come last can be left out.
  for {sockets, told} <- [
        {["=web"], "1, names unset, pid set"},
        {["=web", "=epmd"], "1, names unset, pid set"},
        {["=epmd", "=web"], "2, names unset, pid set"},
        {["=epmd"], "unset, names unset, pid"},
        {["web.socket=web", "epmd=epmd"], "1, names web.socket, pid set"},
        {["web.socket=web", "app.socket=epmd"], "1, names web.socket, pid set"},
        {["epmd.socket=epmd", "web.socket=web"], "2, names epmd.socket:web.socket, pid set"}
      ] do
    test "what a service manager passes for another server stays: #{inspect(sockets)}",
         %{port: port, name: name} = context do
      ports = %{"web" => free_port(), "epmd" => port}
      sockets = for socket <- unquote(sockets), [name, what] = String.split(socket, "="), do: "#{name}=#{ports[what]}"
      service = start(context, 0, sockets, [{~c"ERL_EPMD_ADDRESS", ~c"127.0.0.1"}])
      assert eventually(fn -> names(port) == [name] end)
      assert eventually(fn -> said?(service, "LISTEN_FDS is #{unquote(told)}\n") end)
    end
  end

  test "the distribution of a VM that starts again finds the listeners again", context do
    %{port: port, name: name} = context

    restart =
      ~s|{ok, _} = net_kernel:start(['#{name}@127.0.0.1', longnames]), ok = net_kernel:stop(), | <>
        ~s|{ok, _} = net_kernel:start(['#{name}@127.0.0.1', longnames]), io:put_chars("again\\n")|

    service = start(Map.put(context, :node, []), 0, ["epmd=#{port}"], [], restart)
    assert eventually(fn -> said?(service, "again") end)
    assert eventually(fn -> names(port) == [name] end)
    assert listening(port) == ["127.0.0.1"]
  end

  # The process goes on, so the service manager passes nothing again.
  for sockets <- [[], ["epmd="]] do
    test "nodes and their connections outlive init:restart, #{if sockets == [], do: "without", else: "with"} a socket unit",
         %{port: port, name: name} = context do
      restart =
        ~S|os:getenv("AGAIN") =:= false andalso (fun Wait() -> case 'Elixir.EmbeddedEpmd':status() of | <>
          ~S|#{names := 2, descriptor_store := all} -> os:putenv("AGAIN", "1"), init:restart(); _ -> timer:sleep(50), Wait() end end)()|

      sockets = for socket <- unquote(sockets), do: "#{socket}#{port}"
      service = start(context, 100, sockets, [], restart)
      assert eventually(fn -> names(port) == [name] end)
      {socket, _} = register("stock", port)
      assert eventually(fn -> said(service) |> String.split("LISTEN_FDS is") |> length() == 3 end)
      assert eventually(fn -> names(port) == Enum.sort([name, "stock"]) end)
      assert {:error, :timeout} = :gen_tcp.recv(socket, 0, 0)
      kept = ["epmd-table-1" | if(sockets == [], do: ["epmd-listener"], else: [])]
      assert eventually(fn -> match?([_], (stored(service) || []) -- kept) end)

      # The next process finds the same.
      tell(service, "k")
      assert eventually(fn -> said?(service, "ended") end)
      tell(service, "s")
      assert eventually(fn -> names(port) == Enum.sort([name, "stock"]) end)
      assert {:error, :timeout} = :gen_tcp.recv(socket, 0, 0)
    end
  end

  test "a port that contradicts the socket unit is told", context do
    service = start(context, 0, ["epmd=#{free_port()}"], [])
    assert eventually(fn -> said?(service, "but the settings say #{context.port}") end)
  end

  @tell_status ~S|(fun Tell() -> #{socket_activated := Unit, descriptor_store := Kept} = 'Elixir.EmbeddedEpmd':status(), | <>
                 ~S|io:format("unit ~p, kept ~p~n", [Unit, Kept]), timer:sleep(100), Tell() end)()|

  for {store, unit, told} <- [
        {100, false, "unit false, kept all"},
        {2, false, "unit false, kept some"},
        {0, true, "unit true, kept nothing"}
      ] do
    test "a VM knows what it has of the service manager: #{told}", %{port: port} = context do
      sockets = if unquote(unit), do: ["epmd=#{port}"], else: []
      service = start(context, unquote(store), sockets, [], @tell_status)
      assert eventually(fn -> said?(service, unquote(told)) end)
    end
  end

  for {how, letter} <- ["is killed": "k", "stops in order": "t"] do
    test "nodes and their connections outlive a service that #{how}", context do
      %{port: port, name: name} = context
      service = start(context, 100, [], [])
      assert eventually(fn -> names(port) == [name] end)
      # OTP loses a SIGTERM that arrives before the VM has booted.
      assert eventually(fn -> said?(service, "LISTEN_FDS is") end)
      {socket, reply} = register("stock", port)
      assert eventually(fn -> stored?(service, ["epmd-2", "epmd-listener", "epmd-table-1"]) end)

      tell(service, unquote(letter))
      assert eventually(fn -> said?(service, "ended") end)
      asked = Task.async(fn -> stock_names(port) end)
      tell(service, "s")
      assert "stock" in Enum.map(Task.await(asked, 30_000), & &1.name)
      assert eventually(fn -> names(port) == Enum.sort([name, "stock"]) end)
      assert {:error, :timeout} = :gen_tcp.recv(socket, 0, 0)
      # The creation counts on across the restart.
      :gen_tcp.close(socket)
      assert eventually(fn -> names(port) == [name] end)
      {_, again} = register("stock", port)
      assert again == reply + 1
    end
  end

  ## The service

  # Starts a node with the supervised process, which prints the LISTEN_FDS that its child processes see.
  defp start(%{manager: manager, port: port, name: name} = context, store, sockets, environment, then \\ "ok") do
    says =
      ~S|io:put_chars(os:cmd("echo LISTEN_FDS is ${LISTEN_FDS:-unset}, | <>
        ~S|names ${LISTEN_FDNAMES:-unset}, pid ${LISTEN_PID:+set}"))|

    paths = for app <- [:embedded_epmd, :elixir, :logger], word <- ["-pa", "#{:code.lib_dir(app)}/ebin"], do: word

    flags =
      ["-noinput", "-start_epmd", "false", "-epmd_module", "Elixir.EmbeddedEpmd.Discovery", "-setcookie", "test"] ++
        Map.get(context, :node, ["-name", "#{name}@127.0.0.1"]) ++
        ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"] ++
        paths ++
        ["-pa", "#{Path.dirname(:code.which(Support.Vm))}"] ++
        [
          "-eval",
          "{ok, _} = application:ensure_all_started(elixir), 'Elixir.Support.Vm.Application':start(), #{says}, #{then}."
        ]

    arguments = ["#{store}" | sockets] ++ ["--", System.find_executable("erl") | flags]
    environment = Enum.uniq_by(environment ++ [{~c"ERL_EPMD_PORT", ~c"#{port}"}], &elem(&1, 0))
    environment = if sockets == [], do: [{~c"ERL_EPMD_ADDRESS", ~c"127.0.0.1"} | environment], else: environment
    collector = start_supervised!({Agent, fn -> "" end}, id: make_ref())
    test = self()

    owner =
      spawn_link(fn ->
        options = [:binary, :stderr_to_stdout, args: arguments, env: environment]
        port = Port.open({:spawn_executable, manager}, options)
        send(test, {:started, port})
        collect(port, collector)
      end)

    assert_receive {:started, _}, 5_000
    %{owner: owner, collector: collector}
  end

  defp collect(port, collector) do
    receive do
      {^port, {:data, text}} -> Agent.update(collector, &(&1 <> text))
      {:tell, letter} -> Port.command(port, letter)
    end

    collect(port, collector)
  end

  defp tell(%{owner: owner}, letter), do: send(owner, {:tell, letter})
  defp said(%{collector: collector}), do: Agent.get(collector, & &1)
  defp said?(service, text), do: said(service) =~ text

  defp stored?(service, names), do: stored(service) == names

  # What it said last when it was asked.
  defp stored(service) do
    tell(service, "n")
    Process.sleep(20)
    last = Regex.scan(~r/^store(.*)$/m, said(service), capture: :all_but_first) |> List.last()
    if last, do: Enum.sort(String.split(hd(last)) -- ["epmd-witness"])
  end

  defp names(port) do
    with names when is_list(names) <- stock_names(port), do: names |> Enum.map(& &1.name) |> Enum.sort()
  end
end
