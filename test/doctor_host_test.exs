defmodule EmbeddedEpmd.DoctorHostTest do
  # What the doctor sees in network namespaces and under the restrictions of systemd units, which the tests create.
  use ExUnit.Case, async: true

  import Support.Vm

  alias EmbeddedEpmd.Doctor.{Linux, Owner}

  setup do
    %{folder: Support.Folder.new("host")}
  end

  test "daemons of another network namespace, and of another port, are nobody's business here" do
    port = free_port()
    vm = start_ours(unique("host"), port)

    contained =
      start_program(own_network() ++ ["sh", "-c", "ip link set lo up; exec epmd -port #{port} -address 127.0.0.1"])

    elsewhere = start_daemon(free_port())
    for pid <- [contained, elsewhere], do: eventually(fn -> File.read("/proc/#{pid}/comm") == {:ok, "epmd\n"} end)
    eventually(fn -> File.read!("/proc/#{contained}/net/tcp") =~ ":#{hex(port)} " end)

    text = EmbeddedEpmd.Doctor.format(call(vm, EmbeddedEpmd, :examine))
    assert text =~ "ok       Port #{port} is owned by beam.smp (pid #{pid(vm)}, user id "
    refute text =~ "epmd daemon has"
    # Also as a user who cannot see the descriptors of others, which only root can switch to.
    if root?(), do: refute(as_nobody(port) =~ "epmd (pid")
  end

  test "the daemon that has the port is named, also by a user who may not see its descriptors" do
    port = free_port()
    pid = start_daemon(port)
    text = EmbeddedEpmd.Doctor.format(Owner.judge(host(port)))
    assert text =~ "warning  An epmd daemon has port #{port}: pid #{pid}."
    if root?(), do: assert(as_nobody(port) =~ "warning  An epmd daemon has port #{port}: pid #{pid}.")
  end

  test "a process that a user may not see is told by its user, and how to see more" do
    port = free_port()
    start_ours(unique("host"), port)

    if root?() do
      text = as_nobody(port)
      assert text =~ "warning  Port #{port} is owned by a process that this user cannot see, of user id 0."
      assert text =~ "Do: Run as root: ss -ltnp 'sport = :#{port}'"
    else
      assert [%{program: "beam.smp"}] = host(port).holders
    end
  end

  test "under ProcSubset=pid the listeners are seen" do
    script = "mount -t proc -o subset=pid proc /proc && test ! -e /proc/net && exec \"$@\""
    # In another pid namespace the port can be seen, but not the processes.
    port = free_port()
    vm = start_ours(unique("host"), port)
    text = run(own_proc() ++ ["sh", "-c", script, "sh"], owner_of(port))
    assert text =~ "Port #{port} is owned by a process that this user cannot see"
    assert call(vm, EmbeddedEpmd, :status).role == :serving
  end

  test "without /proc the sentence says that it is hidden, and what to do" do
    port = free_port()
    script = "mount -t tmpfs none /proc && exec \"$@\""
    text = run(own_proc() ++ ["sh", "-c", script, "sh"], owner_of(port))
    assert text =~ "Who owns port #{port} cannot be seen: /proc is hidden from this VM."
    assert text =~ "Do: Run as root on the host: ss -ltnp 'sport = :#{port}'"
  end

  test "of a process's arguments only the beginning is read, since they may have megabytes" do
    # It has the name of a VM's program.
    beam = Path.join(Support.Folder.new("beam"), "beam.smp")
    File.ln_s!(System.find_executable("perl"), beam)

    started = fn arguments ->
      pid = start_program([beam, "-e", "sleep 600", "--" | arguments])
      eventually(fn -> File.read("/proc/#{pid}/comm") == {:ok, "beam.smp\n"} end)
      pid
    end

    [name, hidden] = for name <- ["seen", "hidden"], do: unique(name)
    pid = started.(["-sname", name])
    started.(List.duplicate(String.duplicate("x", 100_000), 5) ++ ["-sname", hidden])
    assert %{pid: ^pid} = Linux.node_process(name)
    assert Linux.node_process(hidden) == nil
  end

  test "a unit without AF_UNIX is told what that costs, and what to add", %{folder: folder} do
    program = Path.join(folder, "no_unix_sockets")
    {_, 0} = System.cmd("cc", ["-o", program, Path.expand("support/no_unix_sockets.c", __DIR__)])
    expression = "IO.puts(EmbeddedEpmd.Doctor.format(EmbeddedEpmd.examine()))"
    node = ["--name", unique("unit") <> "@127.0.0.1"]
    flags = "-start_epmd false -epmd_module Elixir.EmbeddedEpmd.Discovery"
    # Flags cannot hold the path, in which there may be a blank.
    libraries = {"ERL_LIBS", Path.dirname(Path.dirname(ebin()))}
    environment = [{"ERL_EPMD_PORT", "#{free_port()}"}, {"ERL_EPMD_ADDRESS", "127.0.0.1"}, libraries]

    for {command, sentence} <- [
          {[program], "warning  No VM can stand by for this one: Unix sockets are not allowed here"},
          {[], "ok       Nobody stands by for this VM"}
        ] do
      text = run(command, ["elixir" | node] ++ ["--erl", flags, "-e", expression], environment)
      assert text =~ sentence
    end

    # Nor can interfaces be listed there.
    addresses = "[{0, 0, 0, 0, 0, 0, 0, 1}, {203, 0, 113, 7}]"
    expression = "IO.inspect(Enum.map(#{addresses}, &EmbeddedEpmd.Boot.HostAddress.own?/1))"
    assert run([program], ["elixir", "-pa", ebin(), "-e", expression]) == "[true, false]\n"
  end

  defp host(port) do
    sockets = Linux.listening(port)

    %{
      linux: true,
      port: port,
      sockets: sockets,
      holders: Linux.holders(sockets, port),
      names: {:error, :econnrefused},
      unregistered: []
    }
  end

  # A command that prints the findings about the owner of the port.
  defp owner_of(port, ebin \\ ebin()) do
    expression = "EmbeddedEpmd.Doctor.Facts.host() |> EmbeddedEpmd.Doctor.Owner.judge() |> EmbeddedEpmd.Doctor.format()"
    ["env", "ERL_EPMD_PORT=#{port}", "elixir", "-pa", ebin, "-e", "IO.puts(#{expression})"]
  end

  # The checkout may be where only its owner can read.
  defp as_nobody(port) do
    folder = Support.Folder.new("ebin")
    File.cp_r!(ebin(), folder)
    {_, 0} = System.cmd("chmod", ["-R", "a+rX", folder])
    run(~w(setpriv --reuid 65534 --regid 65534 --clear-groups), owner_of(port, folder))
  end

  defp run(wrapper, command, environment \\ []) do
    {text, 0} = System.cmd("env", ["HOME=/tmp" | wrapper] ++ command, env: environment, stderr_to_stdout: true)
    text
  end

  # Other users than root get a user namespace. Root needs none, and may not create one in a chroot.
  defp unshare, do: ["unshare" | if(root?(), do: [], else: ~w(--user --map-root-user))]
  defp own_network, do: unshare() ++ ["--net"]
  defp own_proc, do: unshare() ++ ~w(--mount --pid --fork --mount-proc)

  defp ebin, do: Path.join(:code.lib_dir(:embedded_epmd), "ebin")
  defp root?, do: System.cmd("id", ["-u"]) == {"0\n", 0}
  defp hex(port), do: port |> Integer.to_string(16) |> String.pad_leading(4, "0")
end
