defmodule EmbeddedEpmd.UnregisteredTest do
  # A VM that runs and is not registered is found, and what the doctor says brings it back.
  use ExUnit.Case, async: true

  import Support.Vm

  alias EmbeddedEpmd.Doctor
  alias EmbeddedEpmd.Doctor.{Connection, Unregistered}

  setup do
    %{port: free_port(), name: unique("lost"), owner: unique("owner")}
  end

  test "one that is stopped when its daemon goes", %{port: port, name: name, owner: owner} do
    daemon = start_daemon(port)
    pid = pid(start_stock(name, port))
    suspend(pid)
    {_, 0} = System.cmd("kill", ["-9", daemon])
    vm = serving(owner, port)
    text = eventually(fn -> found(vm, name) end)
    assert text =~ ~r"warning  #{name}@127.0.0.1 runs \(pid #{pid}, listens on port \d+\) and is not registered on port"

    assert text =~
             "It is stopped, by SIGSTOP or a debugger, and does nothing.\n         Do: Let it go on: kill -CONT #{pid}"

    # The doctor of the connection says the same.
    connection = Connection.format(call(vm, EmbeddedEpmd, :examine, ["#{name}@127.0.0.1"]))
    assert connection =~ ~r"PROBLEM  Port #{port} of 127.0.0.1: #{name}@127.0.0.1 runs \(pid #{pid}"

    {_, 0} = System.cmd("kill", ["-CONT", pid])
    eventually(fn -> name in registered(port) end)
    refute found(vm, name)
  end

  test "one with a fixed port, which registers when it is told to", %{port: port, name: name, owner: owner} do
    start_stock(name, port, flags: ["-erl_epmd_port", "#{free_port()}"])
    vm = serving(owner, port)
    text = eventually(fn -> found(vm, name) end)
    assert text =~ "It has a fixed port (-erl_epmd_port): it registers when it starts, and never again."
    [command] = Regex.run(~r"erl_call .*", text)
    {_, 0} = System.cmd("sh", ["-c", String.replace(command, "COOKIE", "test")])
    assert name in registered(port)
    refute found(vm, name)
  end

  test "one of another EPMD, or that does not listen, is nobody's business here", %{
    port: port,
    name: name,
    owner: owner
  } do
    elsewhere = free_port()
    start_daemon(elsewhere)
    start_stock(name, elsewhere)
    vm = serving(owner, port)
    refute found(vm, name)
  end

  @vm %{
    pid: "7",
    node: "a@h",
    flags: [{"-name", ["a@h"]}, {"-epmd_port", ["4370"]}],
    ports: [5],
    stopped: false,
    erts: [13, 1, 5],
    crash_dump: nil
  }

  for {what, changes, names, found?} <- [
        {"is not among the names", %{}, [{"b", 6}], true},
        {"is among them", %{}, [{"a", 5}], false},
        {"advertises another port", %{}, [{"a", 7}], false},
        {"has lost its name to another", %{}, [{"a", 6}], true},
        {"belongs to another user", %{ports: :unknown}, [{"a", 6}], false},
        {"does not listen", %{flags: [{"-epmd_port", ["4370"]}, {"-dist_listen", ["false"]}]}, [], false},
        {"asks another EPMD", %{flags: []}, [], false},
        {"has another discovery module", %{flags: [{"-epmd_port", ["4370"]}, {"-epmd_module", ["Elixir.Other"]}]}, [],
         false}
      ] do
    test "a VM that #{what} is #{if found?, do: "found", else: "not found"}" do
      vm = Map.merge(@vm, unquote(Macro.escape(changes)))
      other = %{@vm | pid: "8", node: "b@h", ports: [6]}
      found = Unregistered.of([vm, other], {:ok, [{"b", 6} | unquote(names)]}, 4370)
      assert vm in found == unquote(found?)
    end
  end

  for {what, changes, why, remedy} <- [
        {"of an old OTP", %{erts: [11, 1, 8]}, "The client of an OTP before 23.3 registers when the node starts",
         "erl_call -c COOKIE -address 5 -a 'erl_epmd register_node [a, 5]'"},
        {"of a new one", %{}, "OTP's client tries again every 2 seconds",
         "See in the log of the owner whether it is refused."},
        {"of ours", %{flags: [{"-epmd_module", ["Elixir.EmbeddedEpmd.Discovery"]}]}, "It registers again by itself",
         "A restart is not needed."},
        {"of another user", %{ports: :unknown}, "OTP's client", "Run this as root or as the user of that process"}
      ] do
    test "what brings back a VM #{what} is said" do
      finding = Unregistered.finding(Map.merge(@vm, unquote(Macro.escape(changes))), 4370)
      assert finding.why =~ unquote(why)
      assert finding.fix =~ unquote(remedy)
    end
  end

  defp serving(name, port) do
    vm = start_ours(name, port)
    eventually(fn -> call(vm, EmbeddedEpmd, :status).role == :serving end)
    vm
  end

  defp registered(port), do: Enum.map(stock_names(port), & &1.name)

  defp found(vm, name) do
    text = Doctor.format(call(vm, EmbeddedEpmd, :examine))
    if text =~ "#{name}@127.0.0.1 runs", do: text
  end
end
