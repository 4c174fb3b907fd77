defmodule EmbeddedEpmd.ComesLaterTest do
  # What a setting names need not be there when a VM boots: users, groups, loopback addresses. Their files are those of a
  # mount namespace or a network namespace.
  use ExUnit.Case, async: true

  import Support.Vm

  alias Support.{Folder, Network, Registration, Watch}

  @nobody "which does not exist on this host"

  setup do
    passwd = Path.join(Folder.new("later"), "passwd")
    File.write!(passwd, "root:x:0:0::/root:/bin/sh\n")
    %{port: free_port(), name: unique("prod"), passwd: passwd, user: own_user()}
  end

  test "a user of :reserved_names whom nobody has yet: the VM boots, says so once, and the name is the user's later",
       context do
    %{port: port, name: name, passwd: passwd, user: user} = context

    vm =
      start_ours(unique("owner"), port, [
        with_users(passwd),
        flags: ["-embedded_epmd", "reserved_names", reserved(name)]
      ])

    watch(vm)
    eventually(fn -> match?([_], nobody(vm)) end)
    assert [what] = nobody(vm)
    assert what =~ "the settings name the user late, which does not exist on this host"
    assert register(name, port) == :refused
    eventually(fn -> logged(vm, "registration refused") != [] end)
    reason = "the name belongs to user late (unknown on this host), and user #{user} asks for it"
    assert [%{name: ^name, reason: ^reason}] = logged(vm, "registration refused")
    # Another name is anybody's.
    assert register(unique("other"), port) == :granted

    File.write!(passwd, "late:x:#{user}:0::/:/bin/sh\n", [:append])
    eventually(fn -> register(name, port) == :granted end)
    # It has gone: its number may be another's.
    File.write!(passwd, "root:x:0:0::/root:/bin/sh\n")
    eventually(fn -> register(name, port) == :refused end)
    assert [_] = nobody(vm)
  end

  test "users and groups of :hand_over", %{port: port, passwd: passwd} do
    setting = ~s([{users,["late"]},{groups,["later"]}])

    for option <- [[flags: ["-embedded_epmd", "hand_over", setting]], []] do
      vm = start_ours(unique("ours"), port, [with_users(passwd) | option])
      watch(vm, if(option == [], do: [hand_over: [users: ["late"], groups: ["later"]]], else: []))
      eventually(fn -> match?([_, _], nobody(vm)) end)
      assert Enum.sort(for(what <- nobody(vm), do: what =~ "the group later")) == [false, true]
    end
  end

  test "a VM boots with a name of a user whom nobody has, who may be its own", %{port: port, name: name, passwd: passwd} do
    vm = start_ours(name, port, [with_users(passwd), flags: ["-embedded_epmd", "reserved_names", reserved(name)]])
    assert [%{name: ^name}] = stock_names(port)
    assert call(vm, EmbeddedEpmd, :status).role == :serving
  end

  test "a directory that does not answer keeps no VM from booting", %{port: port, name: name, passwd: passwd} do
    File.rm!(passwd)
    # Whoever opens it to read waits for somebody who writes.
    {_, 0} = System.cmd("mkfifo", [passwd])
    # A VM that waits there, since it is wrong, cannot end before that does.
    on_exit(fn -> {_, 0} = System.cmd("sh", ["-c", ": <> \"$0\"", passwd]) end)

    vm =
      start_ours(unique("owner"), port, [
        with_users(passwd),
        flags: ["-embedded_epmd", "reserved_names", reserved(name)]
      ])

    watch(vm)
    assert register(name, port) == :refused
    assert register(unique("other"), port) == :granted
    # It is still being asked.
    assert nobody(vm) == []
  end

  test "a loopback address that this host does not have is told, and served when it comes", %{port: port} do
    network = Network.start()
    Network.run(network, ~w(ip address del 127.0.0.1/8 dev lo))
    Network.run(network, ~w(ip address add 127.0.0.1/32 dev lo))
    name = unique("ours")
    environment = [{"ERL_EPMD_ADDRESS", "127.0.1.1"}]
    vm = start_ours(name, port, [Network.option(network), env: environment])
    watch(vm)
    status = fn -> call(vm, EmbeddedEpmd, :status) end
    assert %{role: :serving, addresses: ["127.0.0.1"], names: 1} = status.()
    what = "not listening on an address that this host does not have"
    eventually(fn -> match?([%{address: "127.0.1.1"}], logged(vm, what)) end)

    # Another one joins it.
    joined = start_ours(unique("joined"), port, [Network.option(network), env: environment])
    assert %{role: :joined, owner: "127.0.0.1:" <> _} = call(joined, EmbeddedEpmd, :status)

    Network.run(network, ~w(ip address add 127.0.1.1/32 dev lo))
    eventually(fn -> Enum.sort(status.().addresses) == ["127.0.0.1", "127.0.1.1"] end)
    assert [_] = logged(vm, what)
  end

  test "also of runtime.exs or the child; one that is no loopback is still an error", %{port: port} do
    network = Network.start()
    Network.run(network, ~w(ip address del 127.0.0.1/8 dev lo))
    Network.run(network, ~w(ip address add 127.0.0.1/32 dev lo))
    vm = start_ours(unique("ours"), port, [Network.option(network), env: [{"ERL_EPMD_ADDRESS", ""}]])
    hush(vm)
    supervisor = supervise(vm)
    :ok = call(vm, :supervisor, :terminate_child, [supervisor, EmbeddedEpmd])
    assert {:error, reason} = supervise_second(vm, supervisor, addresses: ["192.0.2.1"])
    assert inspect(reason) =~ "cannot listen on 192.0.2.1:#{port}"
    assert {:ok, _} = supervise_second(vm, supervisor, addresses: ["127.0.1.1"])
    assert call(vm, EmbeddedEpmd, :status).addresses == ["127.0.0.1"]
  end

  defp reserved(name), do: ~s([{"#{name}","late"}])

  # The option of `Vm` that starts a VM with another list of users.
  defp with_users(passwd) do
    unshare = System.find_executable("unshare")
    user = if own_user() == 0, do: [], else: ["--map-root-user"]
    script = ~s(mount --bind "$0" /etc/passwd && exec erl "$@")
    arguments = user ++ ["--mount", "sh", "-c", script, passwd]
    {:exec, {String.to_charlist(unshare), Enum.map(arguments, &String.to_charlist/1)}}
  end

  defp register(name, port) do
    {socket, <<?v, result, _::binary>>} = Registration.alive2(name, port)
    :gen_tcp.close(socket)
    if result == 0, do: :granted, else: :refused
  end

  defp own_user do
    {user, 0} = System.cmd("id", ["-u"])
    user |> String.trim() |> String.to_integer()
  end

  # What it logs is seen here only.
  defp watch(vm, options \\ []) do
    {:ok, _} = call(vm, :application, :ensure_all_started, [:logger])
    call(vm, Watch, :start)
    :ok = call(vm, Watch, :log)
    call(vm, :logger, :remove_handler, [Logger])
    supervise(vm, options)
  end

  defp logged(vm, text), do: for({:warning, what, report} <- call(vm, Watch, :seen).logged, what =~ text, do: report)
  defp nobody(vm), do: for(report <- logged(vm, @nobody), do: report.what)
end
